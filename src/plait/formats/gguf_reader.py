"""One GGUF file: header, key-value pairs, and tensors checked against the file's size. Knows nothing of split files.

Source: the GGUF specification (ggml, docs/gguf.md), versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from plait.errors import ModelFileError, UnsupportedModelError
from plait.formats.gguf_values import GGUFValue, HeaderCursor
from plait.formats.mapped import MappedFile, map_file
from plait.formats.quant import BLOCK_FORMATS, KNOWN_TYPES, TensorType
from plait.formats.stored import StoredTensor

_MAGIC = b"GGUF"
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_MIN_PAIR_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8


@dataclass(frozen=True, slots=True)
class GGUFPart:
    """One file's metadata and tensors, in the file's order."""

    path: Path
    metadata: dict[str, GGUFValue]
    tensors: dict[str, StoredTensor]

    def int_value(self, key: str, default: int) -> int:
        """The whole number under `key`. Raises `ModelFileError` if something else is there."""
        value = self.metadata.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ModelFileError(self.path, f"key '{key}': expected a whole number, found {type(value).__name__}")
        return value


@dataclass(frozen=True, slots=True)
class _TensorInfo:
    name: str
    shape: tuple[int, ...]  # numpy's order
    type: TensorType
    start: int  # in bytes; from the start of the tensor data

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1])


def read_gguf(path: Path) -> GGUFPart:
    """Map and check one file. Touches the header only.

    Raises `ModelNotFoundError`, `ModelFileError` for any defect, `UnsupportedModelError` for a version, byte order or
    tensor type that Plait does not read.
    """
    file = map_file(path)
    cursor = HeaderCursor(file)
    _check_magic(file, cursor)
    n_tensors = cursor.count("tensors", _MIN_TENSOR_BYTES)
    n_pairs = cursor.count("key-value pairs", _MIN_PAIR_BYTES)
    metadata = _read_pairs(cursor, n_pairs)
    infos = _read_infos(file, cursor, n_tensors)
    part = GGUFPart(path, metadata, {})
    alignment = part.int_value("general.alignment", _DEFAULT_ALIGNMENT)
    if alignment < 1 or alignment & (alignment - 1):
        raise ModelFileError(path, f"key 'general.alignment': {alignment} is not a power of two")
    data_start = -(-cursor.pos // alignment) * alignment
    _check_layout(file, infos, data_start, alignment)
    part.tensors.update(_stored(file, infos, data_start))
    return part


def _check_magic(file: MappedFile, cursor: HeaderCursor) -> None:
    magic = file.data[:4]
    if magic != _MAGIC:
        if _MAGIC.startswith(magic):
            raise ModelFileError(file.path, f"is only {file.size} bytes long; the download may have failed")
        error = UnsupportedModelError if magic == _MAGIC[::-1] else ModelFileError
        raise error(file.path, f"is not a GGUF file; it looks like {file.looks_like()}")
    cursor.pos = len(_MAGIC)
    version = cursor.u32()
    if version in (2, 3):
        return
    if version and version & 0xFFFF == 0:
        raise UnsupportedModelError(file.path, "is a big-endian GGUF file; convert it to little-endian")
    if version == 1:
        raise UnsupportedModelError(file.path, "is GGUF version 1, of August 2023; convert the original model again")
    raise UnsupportedModelError(file.path, f"is GGUF version {version}; Plait reads versions 2 and 3")


def _read_pairs(cursor: HeaderCursor, count: int) -> dict[str, GGUFValue]:
    pairs: dict[str, GGUFValue] = {}
    for index in range(count):
        cursor.where = f"name of key-value pair {index} of {count}"
        key = cursor.name()
        cursor.where = f"key '{key}'"
        if key in pairs:
            raise cursor.error("appears twice")
        pairs[key] = cursor.value()
    return pairs


def _read_infos(file: MappedFile, cursor: HeaderCursor, count: int) -> list[_TensorInfo]:
    infos: list[_TensorInfo] = []
    names: set[str] = set()
    for index in range(count):
        cursor.where = f"name of tensor {index} of {count}"
        name = cursor.name()
        cursor.where = f"tensor '{name}'"
        if name in names:
            raise ModelFileError(file.path, "appears twice", name)
        names.add(name)
        infos.append(_read_info(file, cursor, name))
    return infos


def _read_info(file: MappedFile, cursor: HeaderCursor, name: str) -> _TensorInfo:
    n_dims = cursor.u32()
    if not 1 <= n_dims <= _MAX_DIMENSIONS:
        raise ModelFileError(file.path, f"has {n_dims} dimensions; 1 to {_MAX_DIMENSIONS} are allowed", name)
    shape = tuple(cursor.u64() for _ in range(n_dims))[::-1]  # on disk the innermost comes first
    type_id = cursor.u32()
    info_type = KNOWN_TYPES.get(type_id)
    if info_type is None:
        known = f"it reads {', '.join(BLOCK_FORMATS)}"
        text = f"is of a type that Plait does not know, ggml's number {type_id}; {known}"
        raise UnsupportedModelError(file.path, text, name)
    if reason := _shape_defect(shape, info_type):
        raise ModelFileError(file.path, reason, name)
    return _TensorInfo(name, shape, info_type, cursor.u64())


def _shape_defect(shape: tuple[int, ...], tensor_type: TensorType) -> str | None:
    if 0 in shape:
        return f"shape {shape} has a dimension of 0"
    if math.prod(shape) >= 1 << 63:
        return f"shape {shape} has more values than any file can hold"
    if shape[-1] % tensor_type.block_values:
        block = tensor_type.block_values
        return f"rows of {shape[-1]} values are not a multiple of {tensor_type.name}'s block of {block}"
    return None


def _check_layout(file: MappedFile, infos: Sequence[_TensorInfo], data_start: int, alignment: int) -> None:
    for info in infos:
        if info.start % alignment:
            reason = f"starts at offset {info.start}, which is not a multiple of the alignment {alignment}"
            raise ModelFileError(file.path, reason, info.name)
        end = data_start + info.start + info.nbytes
        if end > file.size:
            reason = f"ends at byte {end}, but the file has only {file.size}; it is truncated or damaged"
            raise ModelFileError(file.path, reason, info.name)
    ordered = sorted(infos, key=lambda info: info.start)
    for before, after in pairwise(ordered):
        if before.start + before.nbytes > after.start:
            raise ModelFileError(file.path, f"overlaps tensor '{before.name}'", after.name)


def _stored(file: MappedFile, infos: Sequence[_TensorInfo], data_start: int) -> dict[str, StoredTensor]:
    data = file.bytes_view()
    tensors = {}
    for info in infos:
        start = data_start + info.start
        content = data[start : start + info.nbytes]
        tensors[info.name] = StoredTensor(info.name, info.shape, info.type.name, content, file.path)
    return tensors


def encoded_pairs(path: Path) -> dict[str, bytes]:
    """The values of one file's key-value pairs as they lie there, with their types: what a writer copies, since a
    number's width is lost once it is read. Raises as `read_gguf`."""
    file = map_file(path)
    cursor = HeaderCursor(file)
    _check_magic(file, cursor)
    cursor.count("tensors", _MIN_TENSOR_BYTES)
    pairs: dict[str, bytes] = {}
    for _ in range(cursor.count("key-value pairs", _MIN_PAIR_BYTES)):
        key = cursor.name()
        start = cursor.pos
        cursor.value()
        pairs[key] = bytes(file.data[start : cursor.pos])
    return pairs
