"""A GGUF model: one file, or the parts that it was split into. Knows the split keys; knows no architecture.

Source of the split convention: llama.cpp's gguf-split (names `NAME-00001-of-00003.gguf`; keys split.no, split.count,
split.tensors.count; the first part has the model's metadata).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from plait.errors import ModelFileError
from plait.formats.gguf_reader import GGUFPart, read_gguf
from plait.formats.stored import StoredTensor
from plait.formats.tensor import LazyTensor

_PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GGUFSource:
    """An opened GGUF model; see `ModelSource`. `path` is the first part's."""

    path: Path
    metadata: Mapping[str, object]
    tensors: Mapping[str, LazyTensor]
    container: str = "gguf"


def part_names(name: str) -> list[str]:
    """The file names of the whole model that the file `name` belongs to: [name], or all parts of a split in order."""
    match = _PART_NAME.fullmatch(name)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return [name]
    count = int(match["count"])
    return [f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def open_gguf(path: Path) -> GGUFSource:
    """Open the model that `path` (a file, or any part of a split model) belongs to.

    Raises `ModelNotFoundError`, `ModelFileError` for any defect or missing part, `UnsupportedModelError`.
    """
    part = read_gguf(path)
    count = part.int_value("split.count", 1)
    if count <= 1:
        return _source([part])
    names = part_names(path.name)
    if len(names) != count:
        number = part.int_value("split.no", 0) + 1
        reason = f"is part {number} of {count}; its name must end in -{number:05d}-of-{count:05d}.gguf"
        raise ModelFileError(path, reason)
    paths = [path.with_name(name) for name in names]
    missing = [name for name, p in zip(names, paths, strict=True) if not p.exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelFileError(path, f"is one of {count} parts, but {missing[0]}{more} is missing from {path.parent}")
    parts = [part if p == path else read_gguf(p) for p in paths]
    _check_parts(parts)
    return _source(parts)


def _check_parts(parts: Sequence[GGUFPart]) -> None:
    n_tensors = sum(len(part.tensors) for part in parts)
    for index, part in enumerate(parts):
        number, count = part.int_value("split.no", -1), part.int_value("split.count", -1)
        if (number, count) != (index, len(parts)):
            reason = f"its name says part {index + 1} of {len(parts)}, its keys split.no {number}, split.count {count}"
            raise ModelFileError(part.path, reason)
    for part in parts:
        claimed = part.int_value("split.tensors.count", n_tensors)
        if claimed != n_tensors:
            reason = f"key 'split.tensors.count': claims {claimed} tensors, but the {len(parts)} parts hold {n_tensors}"
            raise ModelFileError(part.path, reason)


def _source(parts: Sequence[GGUFPart]) -> GGUFSource:
    tensors: dict[str, StoredTensor] = {}
    for part in parts:
        for name, tensor in part.tensors.items():
            if name in tensors:
                raise ModelFileError(part.path, f"is in {tensors[name].file.name}, too", name)
            tensors[name] = tensor
    return GGUFSource(parts[0].path, MappingProxyType(parts[0].metadata), MappingProxyType(tensors))
