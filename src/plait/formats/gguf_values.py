"""The scalars, strings and arrays that a GGUF header is made of. Knows their encoding; knows no key.

Source: the GGUF specification (ggml, docs/gguf.md). All numbers are little-endian. Nothing here allocates more than the
header has bytes, whatever its counts and lengths claim.
"""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from plait.errors import ModelFileError, UnsupportedModelError
from plait.formats.mapped import MappedFile

GGUFValue: TypeAlias = "int | float | bool | str | list[str] | npt.NDArray[np.generic]"

# Headers with 256k-token vocabularies take some 20 MB; a file that claims this much is damaged or hostile.
MAX_HEADER_BYTES = 256 << 20
MAX_NAME_LENGTH = 256  # four times what ggml allows

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    _BOOL: np.dtype("u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}


class HeaderCursor:
    """Walks the header of a mapped file. `where` says for error messages what is being read."""

    def __init__(self, file: MappedFile) -> None:
        self.pos = 0
        self.where = "the header"
        self._file = file
        self._data = file.data
        self._end = min(file.size, MAX_HEADER_BYTES)

    def error(self, reason: str) -> ModelFileError:
        return ModelFileError(self._file.path, f"{self.where}: {reason}")

    @property
    def bytes_left(self) -> int:
        return self._end - self.pos

    def u32(self) -> int:
        return self._unpack(_U32)

    def u64(self) -> int:
        return self._unpack(_U64)

    def count(self, what: str, min_bytes: int) -> int:
        """A 64-bit number of things of at least `min_bytes` each, which must fit into what is left."""
        count = self.u64()
        if count * min_bytes > self.bytes_left:
            raise self.error(f"claims {count} {what}, more than the {self.bytes_left} bytes left can hold")
        return count

    def string(self) -> str:
        length = self.count("bytes of text", 1)
        start, self.pos = self.pos, self.pos + length
        try:
            return self._data[start : self.pos].decode()
        except UnicodeDecodeError:
            raise self.error("text that is not UTF-8") from None

    def name(self) -> str:
        """A string that names something, and so will stand in messages."""
        name = self.string()
        if len(name) > MAX_NAME_LENGTH:
            raise self.error(f"is {len(name)} characters long; at most {MAX_NAME_LENGTH} are allowed")
        if not name.isprintable():
            raise self.error(f"has characters that cannot be printed: {name!r}")
        return name

    def value(self) -> GGUFValue:
        """A type number and a value of that type."""
        kind = self.u32()
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        number: int | float | bool = self._numbers(kind, 1).item()
        return number

    def _array(self) -> list[str] | npt.NDArray[np.generic]:
        kind = self.u32()
        if kind == _ARRAY:
            raise UnsupportedModelError(self._file.path, f"{self.where}: nested arrays are not supported")
        if kind == _STRING:
            return self._strings(self.count("strings", 8))
        return self._numbers(kind, self.count("numbers", self._dtype(kind).itemsize))

    def _dtype(self, kind: int) -> np.dtype[Any]:
        dtype = _NUMBERS.get(kind)
        if dtype is None:
            raise self.error(f"unknown value type {kind}; GGUF has 0 to 12")
        return dtype

    def _numbers(self, kind: int, count: int) -> npt.NDArray[np.generic]:
        dtype = self._dtype(kind)
        start, stop = self.pos, self.pos + count * dtype.itemsize
        if stop > self._end:
            raise self._cut()
        self.pos = stop
        numbers: npt.NDArray[Any] = np.frombuffer(self._data[start:stop], dtype)
        if kind != _BOOL:
            return numbers
        if (numbers > 1).any():
            raise self.error("a truth value that is neither 0 nor 1")
        return numbers.view(np.bool_)

    def _strings(self, count: int) -> list[str]:
        # Vocabularies and merges hold some 400,000 strings: everything in locals, one check for each.
        data, end, position, unpack = self._data, self._end, self.pos, _U64.unpack_from
        strings: list[str] = []
        append = strings.append
        try:
            for _ in range(count):
                start = position + 8
                position = start + unpack(data, position)[0]
                if position > end:
                    raise self._cut(f"string {len(strings)} of {count}")
                append(data[start:position].decode())
        except struct.error:
            raise self._cut(f"string {len(strings)} of {count}") from None
        except UnicodeDecodeError:
            raise self.error(f"string {len(strings)} is not UTF-8") from None
        self.pos = position
        return strings

    def _unpack(self, form: struct.Struct) -> int:
        if self.bytes_left < form.size:
            raise self._cut()
        (number,) = form.unpack_from(self._data, self.pos)
        self.pos += form.size
        return int(number)

    def _cut(self, what: str = "it") -> ModelFileError:
        if self._end < self._file.size:
            return self.error(f"{what} reaches beyond {MAX_HEADER_BYTES >> 20} MiB, the most a header may take")
        return self.error(f"{what} reaches past the end of the file ({self._end} bytes); it is truncated or damaged")
