"""Bytes of small model files, well-formed or not: what the writers of libraries would refuse to write."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

U8, BOOL, U32, STRING, ARRAY, F32_VALUE, U16 = 0, 7, 4, 8, 9, 6, 2


def write(path: Path, content: bytes) -> Path:
    """A new file in place of the old one: some file systems take milliseconds to shorten one that was just written."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


def text(s: str | bytes) -> bytes:
    data = s.encode() if isinstance(s, str) else s
    return struct.pack("<Q", len(data)) + data


def u32(number: int) -> bytes:
    """A value: type number, then the number."""
    return struct.pack("<II", U32, number)


def string(s: str | bytes) -> bytes:
    return struct.pack("<I", STRING) + text(s)


def array(kind: int, count: int, content: bytes) -> bytes:
    return struct.pack("<IIQ", ARRAY, kind, count) + content


def tensor(name: str | bytes, dims: Sequence[int], type_id: int, offset: int) -> bytes:
    """A tensor's entry; `dims` innermost first, as on disk."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset)


def gguf(
    pairs: Sequence[tuple[str | bytes, bytes]] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    n_pairs: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    head = b"GGUF" + struct.pack(
        "<IQQ",
        version,
        len(tensors) if n_tensors is None else n_tensors,
        len(pairs) if n_pairs is None else n_pairs,
    )
    head += b"".join(text(key) + value for key, value in pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment if data else 0) + data


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def entry(dtype: str, shape: Sequence[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
