"""Writes one GGUF file, tensor by tensor, never a whole model in memory. Knows the container; knows no architecture.

Source: the GGUF specification (ggml, docs/gguf.md), version 3, little-endian. The file appears under its name only when
it is whole.
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from plait.errors import ModelFileError
from plait.formats.quant import TensorType
from plait.formats.tensor import U8Array

ALIGNMENT = 32
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A tensor to be written; `shape` is in numpy's order."""

    name: str
    shape: tuple[int, ...]
    type: TensorType

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1])


def encode_u32(value: int) -> bytes:
    """A value of a key-value pair, with its type: an unsigned 32-bit number."""
    return struct.pack("<II", _U32, value)


def encode_value(value: object) -> bytes:
    """As `encode_u32`: a truth value, a whole number (unsigned, 32 bits), a number (float32), a string, or a list of
    one of these, whose whole numbers are signed. Raises `ValueError` for anything else."""
    if isinstance(value, list):
        kind = _kind(value[0], _I32) if value else _I32
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(_plain(each, kind) for each in value)
    kind = _kind(value, _U32)
    return struct.pack("<I", kind) + _plain(value, kind)


def _kind(value: object, whole: int) -> int:
    kinds = {bool: _BOOL, int: whole, float: _F32, str: _STRING}
    if type(value) not in kinds:
        raise ValueError(f"a value of type {type(value).__name__} has no place in a GGUF header")
    return kinds[type(value)]


def _plain(value: Any, kind: int) -> bytes:
    if kind == _STRING:
        return _string(value)
    return struct.pack({_BOOL: "<?", _U32: "<I", _I32: "<i", _F32: "<f"}[kind], value)


def write_gguf(
    path: Path, pairs: Mapping[str, bytes], tensors: Sequence[TensorPlan], pieces: Iterable[U8Array]
) -> None:
    """Write `path`: the encoded values `pairs`, the header of `tensors`, then `pieces`, which are the bytes of all
    tensors in order; no piece crosses the end of a tensor.

    Written beside `path` under another name, and renamed at the end: on any failure nothing is left, and a file that
    was there stays. Raises `ModelFileError` if the system will not write (a full disk, no permission).
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write(file, pairs, tensors, pieces, path)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritable(path, error) from None
        raise


def _write(
    file: IO[bytes], pairs: Mapping[str, bytes], tensors: Sequence[TensorPlan], pieces: Iterable[U8Array], path: Path
) -> None:
    header = _header(pairs, tensors)
    _refuse_full_disk(path, len(header) + sum(_padded(t.nbytes) for t in tensors))
    file.write(header)
    stream = iter(pieces)
    for tensor in tensors:
        written = 0
        while written < tensor.nbytes:
            written += file.write(next(stream).data)
        assert written == tensor.nbytes, tensor.name
        file.write(bytes(_padded(written) - written))


def _header(pairs: Mapping[str, bytes], tensors: Sequence[TensorPlan]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(pairs))]
    for key, value in pairs.items():
        parts += [_string(key), value]
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]  # on disk the innermost comes first
        parts += [_string(tensor.name), struct.pack(f"<I{len(dims)}Q", len(dims), *dims)]
        parts.append(struct.pack("<IQ", tensor.type.ggml_type_id, offset))
        offset += _padded(tensor.nbytes)
    header = b"".join(parts)
    return header.ljust(_padded(len(header)), b"\0")


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _refuse_full_disk(path: Path, needed: int) -> None:
    free = _free_bytes(path.parent)
    if free < needed:
        reason = f"cannot be written: it needs {needed / 1e9:.2f} GB, and {path.parent} has {free / 1e9:.2f} GB free"
        raise ModelFileError(path, reason)


def _free_bytes(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def _unwritable(path: Path, error: OSError) -> ModelFileError:
    return ModelFileError(path, f"cannot be written: {error.strerror or error}")
