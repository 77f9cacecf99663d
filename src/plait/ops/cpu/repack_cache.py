"""Repacked weights kept in a file for the next start, one file for each model file.

A model is known by its files (path, size, time, inode), its table of tensors and the first bytes of each tensor; the
layout by the number that the native code gives it. What does not fit is not used, and replaced. Knows files and the
extension; knows no kernels.

The file: a magic word, the header's length and its CRC (8 bytes each); the header in JSON, with the key and for each
tensor its offset, its bytes and their sum; the tensors' bytes, each from a whole page on. It is written beside its
place and then moved there, so that nobody sees half of one, and who reads an older one keeps it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plait.formats.stored import StoredTensor
from plait.formats.tensor import U8Array
from plait.ops.api import Weight
from plait.ops.cpu import _native

_log = logging.getLogger("plait")
_HEAD = struct.Struct("<16sQQ")
_MAGIC = b"plait repacked\0\0"
_PAGE = 4096
_MOST_HEADER = 1 << 28
_CHUNK = 1 << 24  # written at a time, so that Ctrl-C need not wait long


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's repacked bytes lie in the file."""

    offset: int
    size: int
    sum: int


class KeptWeights:
    """The cache file of one model. Close it when the weights are read."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._file: int | None = None
        self._places: Mapping[str, Place] = {}
        self._read_header()

    def offer(self, native: _native.Program, matrix: int, weight: Weight) -> None:
        """Tell the native program where this matrix lies, should it be repacked."""
        place = self._places.get(weight.name)
        if place is not None and self._file is not None:
            native.offer(matrix, self._file, place.offset, place.size, place.sum)

    def finish(self, native: _native.Program, matrices: Mapping[str, int]) -> None:
        """After all instructions: write the file anew where it lacked something. `matrices` are those that were
        offered, by name. Failing to write is a warning."""
        packed = {name: i for name, i in matrices.items() if native.packed(i)}
        missing = [name for name, i in packed.items() if not native.took_offer(i)]
        if any(name in self._places for name in missing):
            _log.warning("the repack cache %s is damaged; it is written anew", self._path)
        if missing:
            try:
                self._write(native, packed)
            except OSError as error:
                _log.warning("repacked weights are not kept: %s: %s", self._path, error.strerror or error)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read_header(self) -> None:
        try:
            self._file = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return
        except OSError as error:
            _log.warning("the repack cache %s cannot be read: %s", self._path, error.strerror or error)
            return
        try:
            key, places = _parse_header(self._file)
        except (ValueError, OSError, KeyError, TypeError, AttributeError):
            _log.warning("%s is damaged, or no repack cache; it is written anew", self._path)
            return
        if key == self._key:
            self._places = places

    def _write(self, native: _native.Program, packed: Mapping[str, int]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(self._path.name + ".new")
        file = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _alone(file, beside):
                return  # another process is writing the same
            try:
                self._fill(file, native, packed)
                os.replace(beside, self._path)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
        finally:
            os.close(file)

    def _fill(self, file: int, native: _native.Program, packed: Mapping[str, int]) -> None:
        pieces = {name: native.packed_bytes(i) for name, i in packed.items()}
        sums = {name: native.packed_sum(i) for name, i in packed.items()}
        # Twice: the offsets depend on the header's length, and a header of final length on the offsets.
        start = _whole_pages(len(_header(self._key, pieces, sums, 1 << 60)))
        header = _header(self._key, pieces, sums, start)
        os.ftruncate(file, 0)
        _write_all(file, 0, memoryview(header))
        for place, piece in zip(_places(pieces, sums, start).values(), pieces.values(), strict=True):
            _write_all(file, place.offset, piece.data)
        os.fsync(file)


def open_kept(folder: Path, weights: Sequence[Weight]) -> KeptWeights | None:
    """The cache file for a model with these weights, in `folder`; None for weights that do not come from files."""
    tensors = [weight.tensor for weight in weights]
    stored = [tensor for tensor in tensors if isinstance(tensor, StoredTensor)]
    if not stored or len(stored) != len(tensors):
        return None
    files = sorted({tensor.file.resolve() for tensor in stored})
    try:
        key = _key(files, stored)
    except OSError:  # the model file has gone meanwhile
        return None
    place = hashlib.sha256(repr([str(file) for file in files]).encode()).hexdigest()[:12]
    name = f"{stored[0].file.stem}-{place}-v{_native.PACKED_VERSION}.repacked"
    return KeptWeights(folder.expanduser() / name, key)


def _key(files: Sequence[Path], tensors: Sequence[StoredTensor]) -> str:
    stats = [file.stat() for file in files]
    facts: list[object] = [_native.PACKED_VERSION]
    facts += [(str(f), s.st_size, s.st_mtime_ns, s.st_ino) for f, s in zip(files, stats, strict=True)]
    facts += [(t.name, t.format, t.shape, bytes(t.data[:64]).hex()) for t in tensors]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _parse_header(file: int) -> tuple[str, dict[str, Place]]:
    """The key and the places. Raises for what is no such header, and for places that are not in the file."""
    magic, length, crc = _HEAD.unpack(os.pread(file, _HEAD.size, 0).ljust(_HEAD.size))
    if magic != _MAGIC or length > _MOST_HEADER:
        raise ValueError("no repack cache")
    text = os.pread(file, length, _HEAD.size)
    if len(text) != length or zlib.crc32(text) != crc:
        raise ValueError("a damaged header")
    header = json.loads(text)
    places = {str(name): Place(*map(int, place)) for name, place in header["tensors"].items()}
    size = os.fstat(file).st_size
    if not all(0 <= p.offset <= p.offset + p.size <= size and 0 <= p.sum < 1 << 64 for p in places.values()):
        raise ValueError("a tensor that is not in the file")
    return str(header["key"]), places


def _header(key: str, pieces: Mapping[str, U8Array], sums: Mapping[str, int], start: int) -> bytes:
    places = {name: (p.offset, p.size, p.sum) for name, p in _places(pieces, sums, start).items()}
    text = json.dumps({"key": key, "tensors": places}).encode()
    return _HEAD.pack(_MAGIC, len(text), zlib.crc32(text)) + text


def _places(pieces: Mapping[str, U8Array], sums: Mapping[str, int], start: int) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for name, piece in pieces.items():
        places[name] = Place(start, piece.nbytes, sums[name])
        start += _whole_pages(piece.nbytes)
    return places


def _whole_pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _alone(file: int, path: Path) -> bool:
    """Whether the file is still at `path`, and nobody else writes to it: then it is ours until it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    try:
        return os.stat(path).st_ino == os.fstat(file).st_ino
    except FileNotFoundError:
        return False


def _write_all(file: int, offset: int, data: memoryview) -> None:
    while data:
        written = os.pwrite(file, data[:_CHUNK], offset)
        data, offset = data[written:], offset + written
