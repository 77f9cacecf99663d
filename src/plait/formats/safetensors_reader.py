"""One safetensors file: a JSON header, then the tensors' bytes. Knows nothing of models or shards.

Source: the safetensors specification (github.com/huggingface/safetensors): a little-endian 64-bit header length, a JSON
object of name to {dtype, shape, data_offsets}, and the data, offsets from its start. Read by ourselves rather than with
the library because `raw` must not copy, and because a defect must name the tensor.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from plait.errors import ModelFileError
from plait.formats.json_file import parse_json_object
from plait.formats.mapped import MappedFile, map_file
from plait.formats.quant import BLOCK_FORMATS
from plait.formats.stored import StoredTensor

_MAX_HEADER_BYTES = 100_000_000  # the library's own bound
_MAX_NAME_LENGTH = 1024
# Of a dtype that is not here only the bounds are checked; a tensor of it is listed, and refused when used.
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8, "BOOL": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1,
}  # fmt: skip


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Map and check one file; its tensors by name. Touches the header only.

    Raises `ModelNotFoundError`, or `ModelFileError` for any defect.
    """
    file = map_file(path)
    length = int.from_bytes(file.data[:8], "little")
    if file.size < 8 or length > min(file.size - 8, _MAX_HEADER_BYTES):
        _refuse_start(file, length)
    header = parse_json_object(file.data[8 : 8 + length], path, "the header", file.looks_like())
    header.pop("__metadata__", None)
    tensors: dict[str, StoredTensor] = {}
    ranges: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        tensor, begin = _tensor(file, name, entry, 8 + length)
        tensors[name] = tensor
        if tensor.nbytes:
            ranges.append((begin, begin + tensor.nbytes, name))
    _refuse_overlap(path, ranges)
    return tensors


def _refuse_start(file: MappedFile, length: int) -> NoReturn:
    looks_like = file.looks_like()
    if file.size >= 8 and looks_like.startswith("a safetensors"):
        reason = f"its header claims {length} bytes, but the file has {file.size}; it is truncated or damaged"
        raise ModelFileError(file.path, reason)
    raise ModelFileError(file.path, f"is not a safetensors file; it looks like {looks_like}")


def _tensor(file: MappedFile, name: str, entry: Any, data_start: int) -> tuple[StoredTensor, int]:
    """The tensor and where its bytes begin, from the start of the data."""
    if len(name) > _MAX_NAME_LENGTH or not name.isprintable():
        raise ModelFileError(file.path, f"the header has a tensor name that is too long or unprintable: {name[:99]!r}")
    dtype, shape, begin, end = _fields(file, name, entry)
    if not 0 <= begin <= end <= file.size - data_start:
        reason = f"lies at bytes {begin} to {end} of {file.size - data_start}; the file is truncated or damaged"
        raise ModelFileError(file.path, reason, name)
    needed = math.prod(shape) * _ITEM_BYTES.get(dtype, 0)
    if dtype in _ITEM_BYTES and needed != end - begin:
        reason = f"shape {shape} of {dtype} needs {needed} bytes, but {end - begin} are given"
        raise ModelFileError(file.path, reason, name)
    content = file.bytes_view()[data_start + begin : data_start + end]
    return StoredTensor(name, shape, dtype, content, file.path), begin


def _fields(file: MappedFile, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(entry, dict):
        raise ModelFileError(file.path, "its header entry is not an object", name)
    dtype, shape, offsets = entry.get("dtype"), _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
    if not isinstance(dtype, str) or not dtype.isprintable() or len(dtype) > 32:
        raise ModelFileError(file.path, "its header entry has no dtype", name)
    if dtype in BLOCK_FORMATS and dtype not in _ITEM_BYTES:
        raise ModelFileError(file.path, f"its dtype {dtype} is GGUF's, not one of safetensors", name)
    if shape is None or len(shape) > 8:
        raise ModelFileError(file.path, "its header entry has no shape of up to 8 whole numbers", name)
    if offsets is None or len(offsets) != 2:
        raise ModelFileError(file.path, "its header entry has no data_offsets of two whole numbers", name)
    return dtype, shape, offsets[0], offsets[1]


def _sizes(value: Any) -> tuple[int, ...] | None:
    """A list of whole numbers that a file might have, as a tuple; None if it is anything else."""
    if isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in value):
        return tuple(value)
    return None


def _refuse_overlap(path: Path, ranges: list[tuple[int, int, str]]) -> None:
    for (_, end, before), (begin, _, after) in pairwise(sorted(ranges)):
        if begin < end:
            raise ModelFileError(path, f"overlaps tensor '{before}'", after)
