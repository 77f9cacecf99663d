"""Tensors and model sources that live in memory, for tests that need no file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from plait.formats.quant import quantize
from plait.formats.stored import StoredTensor
from plait.formats.tensor import F32Array, LazyTensor, U8Array
from plait.ops.api import Weight


@dataclass(frozen=True, eq=False)
class ArrayTensor:
    """A float32 array as a LazyTensor."""

    name: str
    array: F32Array
    format: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def raw(self) -> U8Array:
        return np.ascontiguousarray(self.array).reshape(-1, self.array.shape[-1]).view(np.uint8)

    def numpy(self) -> F32Array:
        return self.array


@dataclass(frozen=True, eq=False)
class MemorySource:
    """A ModelSource without a file."""

    metadata: dict[str, object]
    tensors: dict[str, LazyTensor] = field(default_factory=dict)
    container: str = "safetensors"
    path: Path = Path("memory")


def quantised(source: MemorySource, block_format: str) -> MemorySource:
    """The same model with every matrix in `block_format`, which must divide its rows."""
    tensors = {name: _quantised(tensor, block_format, source.path) for name, tensor in source.tensors.items()}
    return MemorySource(source.metadata, tensors, source.container, source.path)


def _quantised(tensor: LazyTensor, block_format: str, path: Path) -> LazyTensor:
    if len(tensor.shape) == 1:
        return tensor
    data = quantize(tensor.numpy(), block_format).reshape(-1)
    return StoredTensor(tensor.name, tensor.shape, block_format, data, path)


def weight(name: str, array: object) -> Weight:
    return Weight(ArrayTensor(name, np.ascontiguousarray(array, dtype=np.float32)))


def random_weight(rng: np.random.Generator, name: str, *shape: int, scale: float = 1.0) -> Weight:
    return weight(name, rng.standard_normal(shape) * scale)
