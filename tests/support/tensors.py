"""Tensors and model sources that live in memory, for tests that need no file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plait.formats.quant import BLOCK_FORMATS, quantize
from plait.formats.stored import StoredTensor
from plait.formats.tensor import F32Array, LazyTensor, U8Array
from plait.ops.api import Weight

HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
    "IQ1_S": (0,), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,), "TQ1_0": (52,),
    "TQ2_0": (64,), "IQ1_M": (), "MXFP4": (),
}  # fmt: skip
"""Where the half-precision scales lie in a block; everything else may be any byte."""
FEW_BITS = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0", "MXFP4")
"""The formats of grids, of three values and of 4-bit floats."""


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


SCALES = {
    "Q4_0": 0.01, "Q4_1": 0.01, "Q5_0": 0.01, "Q5_1": 0.01, "Q8_0": 1e-3, "IQ4_NL": 1e-3, "IQ4_XS": 1e-4,
    "IQ1_S": 0.01, "IQ1_M": 0.01, "IQ3_S": 1e-3, "TQ1_0": 0.1, "TQ2_0": 0.1,
}  # fmt: skip
"""How large the half-precision scales of random blocks are, where it is not 3e-4."""


def tame(blocks: U8Array, block_format: str, scales: npt.NDArray[np.float16]) -> None:
    """Gives random IQ1_M and MXFP4 blocks, whose scales are no halves at a byte of their own, ordinary ones."""
    if block_format == "MXFP4":
        blocks[:, 0] = 118 + blocks[:, 0] % 6
    elif block_format == "IQ1_M":
        words = blocks[:, 48:].view("<u2")
        words[...] = (words & 0x0FFF) | (scales.view("<u2") >> np.array([0, 4, 8, 12], np.uint16) & 15) << 12


def random_blocks(rng: np.random.Generator, name: str, shape: tuple[int, ...], block_format: str) -> LazyTensor:
    """A tensor of a block format from random bytes, with scales that keep values below 1 or so."""
    fmt = BLOCK_FORMATS[block_format]
    blocks = rng.integers(0, 256, (math.prod(shape) // fmt.block_values, fmt.block_bytes), np.uint8)
    for start in HALVES[block_format]:
        scales = (rng.standard_normal((len(blocks), 1)) * SCALES.get(block_format, 3e-4)).astype(np.float16)
        blocks[:, start : start + 2] = scales.view(np.uint8)
    tame(blocks, block_format, (rng.standard_normal((len(blocks), 1)) * 0.01).astype(np.float16))
    return StoredTensor(name, shape, block_format, blocks.reshape(-1), Path("memory"))


def in_k_formats(source: MemorySource, rng: np.random.Generator) -> MemorySource:
    """A model of the same shape in random Q4_K and Q6_K, mixed as llama.cpp's Q4_K_M mixes them."""
    tensors = dict(source.tensors)
    for name, tensor in source.tensors.items():
        if len(tensor.shape) == 2:
            better = any(part in name for part in ("attn_v", "ffn_down", "output"))
            tensors[name] = random_blocks(rng, name, tensor.shape, "Q6_K" if better else "Q4_K")
    return MemorySource(source.metadata, tensors, source.container, source.path)


def in_blocks(source: MemorySource, *formats: str) -> MemorySource:
    """A model of the same shape with random blocks of these formats, matrix by matrix in turn."""
    rng, turn = np.random.default_rng(6), cycle(formats)
    tensors = {
        name: random_blocks(rng, name, t.shape, next(turn)) if len(t.shape) == 2 else t
        for name, t in source.tensors.items()
    }
    return MemorySource(source.metadata, tensors, source.container, source.path)


def weight(name: str, array: object) -> Weight:
    return Weight(ArrayTensor(name, np.ascontiguousarray(array, dtype=np.float32)))


def random_weight(rng: np.random.Generator, name: str, *shape: int, scale: float = 1.0) -> Weight:
    return weight(name, rng.standard_normal(shape) * scale)
