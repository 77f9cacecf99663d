"""Files of saved KV memory: tokens, their positions, and K and V as a backend reads its slots.

A file: a magic word, the length of the header and its CRC; the header in JSON, with the fingerprint and for each KV
group the bytes and their CRC; then the bytes of each group. It is written beside its place and moved there, so that
nobody sees half of one. Knows bytes and fingerprints; knows no pages, no sequences and no device.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from plait.engine.fingerprint import Fingerprint
from plait.errors import KVFileError
from plait.types import TokenId

MAGIC = b"plait kv file 01"
NAMES = {
    "model": "another model",
    "tokenizer": "another tokenizer",
    "kv_type": "another KV type (-ctk)",
    "numerics": "another kernel library or version of Plait",
    "rope": "other RoPE settings",
    "adapter": "another adapter",
}
_HEAD = struct.Struct("<16sQQ")
_MOST_HEADER = 1 << 28
_LAST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class SavedKV:
    """`groups[g]` are K, V and positions of KV group g, one slot for each of `tokens`, as `read_slots` gives them."""

    tokens: tuple[TokenId, ...]
    positions: tuple[int, ...]
    groups: tuple[bytes, ...]

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.groups))


def write_kv(path: Path, mark: Fingerprint, saved: SavedKV) -> int:
    """Write `path` anew, readable to its owner alone; returns the file's size in bytes. Raises `OSError`."""
    text = json.dumps(
        {
            "fingerprint": asdict(mark),
            "tokens": saved.tokens,
            "positions": saved.positions,
            "groups": [(len(data), zlib.crc32(data)) for data in saved.groups],
        }
    ).encode()
    parts = [_HEAD.pack(MAGIC, len(text), zlib.crc32(text)), text, *saved.groups]
    file, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    try:
        with os.fdopen(file, "wb") as out:
            for part in parts:
                out.write(part)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return sum(map(len, parts))


def read_kv(path: Path, mark: Fingerprint, most_tokens: int = _LAST) -> SavedKV:
    """What `write_kv` wrote. Raises `KVFileError` for a file that is damaged, holds more than `most_tokens` or was made
    with another fingerprint, `OSError` for one that cannot be read."""
    with path.open("rb") as file:
        found, tokens, positions, sizes = _header(path, file)
        others = mark.differences(found)
        if others:
            raise KVFileError(path, f"was made with {' and '.join(NAMES[name] for name in others)}; it cannot be used")
        if len(tokens) > most_tokens:
            raise KVFileError(path, f"holds {len(tokens)} tokens; there is room for {most_tokens}")
        groups = []
        for size, crc in sizes:
            data = file.read(size)
            if len(data) != size or zlib.crc32(data) != crc:
                raise _damaged(path)
            groups.append(data)
    return SavedKV(tokens, positions, tuple(groups))


_Header = tuple[Fingerprint, tuple[TokenId, ...], tuple[int, ...], list[tuple[int, int]]]


def _header(path: Path, file: BinaryIO) -> _Header:
    magic, length, crc = _HEAD.unpack(file.read(_HEAD.size).ljust(_HEAD.size))
    if magic != MAGIC:
        raise KVFileError(path, "is no file of saved KV memory, or of another version of Plait")
    text = file.read(length) if length <= _MOST_HEADER else b""
    if len(text) != length or zlib.crc32(text) != crc:
        raise _damaged(path)
    try:
        header = json.loads(text)
        mark = Fingerprint(**{str(name): str(value) for name, value in header["fingerprint"].items()})
        tokens, positions = (_whole(header[name], _LAST) for name in ("tokens", "positions"))
        sizes = [(size, sum_) for size, sum_ in (_whole(pair, 1 << 62) for pair in header["groups"])]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path) from None
    if len(tokens) != len(positions) or os.fstat(file.fileno()).st_size != file.tell() + sum(s for s, _ in sizes):
        raise _damaged(path)
    return mark, tokens, positions, sizes


def _whole(values: Sequence[int], most: int) -> tuple[int, ...]:
    if not all(type(value) is int and 0 <= value <= most for value in values):
        raise ValueError("not whole numbers")
    return tuple(values)


def _damaged(path: Path) -> KVFileError:
    return KVFileError(path, "is damaged or cut short; save it again")
