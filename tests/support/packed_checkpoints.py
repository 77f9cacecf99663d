"""Tiny Llamas as AWQ, GPTQ and compressed-tensors write them, packed field by field from the formats' definitions, and
the float32 weights that they stand for.

`Packed.save` writes a directory; `Packed.floats` is the same model unquantised.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from plait.formats.tensor import F32Array
from support.tensors import ArrayTensor, MemorySource
from support.tiny_llama import TinyLlama

TINY = TinyLlama(d_model=64, ff=96, head_dim=16, tied=False)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Integers:
    """A matrix (out, in): levels, and for each group of inputs a scale and a zero, (out, groups)."""

    levels: np.ndarray
    zeros: np.ndarray
    scales: np.ndarray
    groups: np.ndarray

    def floats(self) -> F32Array:
        out = np.empty(self.levels.shape, np.float32)
        for i, group in enumerate(self.groups):
            signed = self.levels[:, i].astype(np.int32) - self.zeros[:, group]
            out[:, i] = self.scales[:, group].astype(np.float32) * signed.astype(np.float32)
        return out


@dataclass(frozen=True)
class Kind:
    """`zeros` draws zeros for a number of bits; `group` 0 is the whole row. `order`: inputs are grouped at random."""

    name: str
    bits: int
    pack: Callable[[Kind, Integers], Arrays]
    config: Mapping[str, Any]
    group: int = 32
    symmetric: bool = True
    order: bool = False
    scale_type: Any = np.float16

    def draw(self, shape: tuple[int, int], rng: np.random.Generator) -> Integers:
        out, inputs = shape
        run = self.group or inputs
        n_groups, top = -(-inputs // run), 1 << self.bits
        # Two bits around their middle: with a mean far from 0, rounded activations would drown in it.
        levels = rng.integers(1 if self.bits == 2 else 0, top, shape).astype(np.uint8)
        low, high = (96, 160) if self.bits == 8 else (0, top)
        drawn, middle = rng.integers(low, high, (out, n_groups)), np.full((out, n_groups), top // 2)
        zeros = middle if self.symmetric else drawn
        scales = (rng.uniform(0.2, 1.0, (out, n_groups)) / top).astype(self.scale_type)
        groups = np.arange(inputs, dtype=np.int32) // run
        return Integers(levels, zeros, scales, rng.permutation(groups) if self.order else groups)


def words_of(values: np.ndarray, bits: int) -> np.ndarray:
    """Along the first axis, the lowest field first."""
    each = 32 // bits
    padded = np.zeros((-(-len(values) // each) * each, *values.shape[1:]), np.uint32)
    padded[: len(values)] = values
    words = np.zeros((len(padded) // each, *values.shape[1:]), np.uint32)
    for i in range(each):
        words |= padded[i::each] << np.uint32(i * bits)
    return words.view(np.int32)


def pack_awq(kind: Kind, m: Integers) -> Arrays:
    def shuffled(values: np.ndarray) -> np.ndarray:
        """Eight columns in a word."""
        words = np.zeros((len(values), values.shape[1] // 8), np.uint32)
        for i, column in enumerate(AWQ_ORDER):
            words |= values[:, column::8].astype(np.uint32) << np.uint32(4 * i)
        return words.view(np.int32)

    return {"qweight": shuffled(m.levels.T), "qzeros": shuffled(m.zeros.T), "scales": np.ascontiguousarray(m.scales.T)}


def pack_gptq(kind: Kind, m: Integers) -> Arrays:
    less = 0 if kind.config.get("checkpoint_format") == "gptq_v2" else 1
    stored = (m.zeros.T - less) % (1 << kind.bits)
    return {
        "qweight": words_of(m.levels.T, kind.bits),
        "qzeros": np.ascontiguousarray(words_of(stored.T, kind.bits).T),
        "scales": np.ascontiguousarray(m.scales.T),
        "g_idx": m.groups.astype(np.int32),
    }


def pack_compressed(kind: Kind, m: Integers) -> Arrays:
    parts: Arrays = {
        "weight_packed": np.ascontiguousarray(words_of(np.ascontiguousarray(m.levels.T), kind.bits).T),
        "weight_scale": m.scales,
        "weight_shape": np.array(m.levels.shape, np.int64),
    }
    if not kind.symmetric:
        parts["weight_zero_point"] = words_of(m.zeros, kind.bits)
    if kind.order:
        parts["weight_g_idx"] = m.groups.astype(np.int32)
    return parts


def pack_bytes(kind: Kind, m: Integers) -> Arrays:
    middle = 1 << (kind.bits - 1)
    parts: Arrays = {"weight": (m.levels.astype(np.int16) - middle).astype(np.int8), "weight_scale": m.scales}
    if not kind.symmetric:
        parts["weight_zero_point"] = (m.zeros - middle).astype(np.int8)
    return parts


def _scheme(bits: int, layout: str, strategy: str, activations: bool = False) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "strategy": strategy, "symmetric": True}
    acts = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True} if activations else None
    group = {"targets": ["Linear"], "weights": weights, "input_activations": acts}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True}
BF16 = ml_dtypes.bfloat16


def _gptq(bits: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, **more}


KINDS = {kind.name: kind for kind in (
    Kind("awq", 4, pack_awq, AWQ, symmetric=False),
    Kind("awq-symmetric", 4, pack_awq, AWQ, group=0),
    Kind("gptq", 4, pack_gptq, _gptq(4)),
    Kind("gptq-asymmetric", 4, pack_gptq, _gptq(4, checkpoint_format="gptq"), symmetric=False),
    Kind("gptq-v2", 4, pack_gptq, _gptq(4, checkpoint_format="gptq_v2"), symmetric=False),
    Kind("gptq-2-bits", 2, pack_gptq, _gptq(2)),
    Kind("gptq-8-bits", 8, pack_gptq, _gptq(8)),
    Kind("gptq-order", 4, pack_gptq, _gptq(4, desc_act=True), order=True),
    Kind("gptq-8-bits-asymmetric", 8, pack_gptq, _gptq(8), symmetric=False),
    Kind("packed-4", 4, pack_compressed, _scheme(4, "pack-quantized", "group"), scale_type=BF16),
    Kind("packed-4-asymmetric", 4, pack_compressed, _scheme(4, "pack-quantized", "group"), symmetric=False),
    Kind("packed-4-channel", 4, pack_compressed, _scheme(4, "pack-quantized", "channel"), group=0, symmetric=False),
    Kind("packed-4-order", 4, pack_compressed, _scheme(4, "pack-quantized", "group"), order=True),
    Kind("packed-8", 8, pack_compressed, _scheme(8, "pack-quantized", "channel"), group=0),
    Kind("w8a8", 8, pack_bytes, _scheme(8, "int-quantized", "channel", True), group=0, scale_type=np.float32),
    Kind("small-groups", 4, pack_gptq, _gptq(4), group=16),
)}  # fmt: skip


@dataclass
class Packed:
    """`tiny` with the matrices of its layers packed."""

    kind: Kind
    tiny: TinyLlama = TINY
    seed: int = 0
    matrices: dict[str, Integers] = field(init=False)
    plain: dict[str, F32Array] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        arrays = self.tiny.hf_tensors(self.seed)
        inner = [name for name in arrays if "_proj." in name and name.endswith(".weight")]
        self.matrices = {name: self.kind.draw(arrays[name].shape, rng) for name in inner}  # type: ignore[arg-type]
        self.plain = {name: array for name, array in arrays.items() if name not in self.matrices}

    def config(self) -> dict[str, Any]:
        return {**self.tiny.hf_config(), "quantization_config": dict(self.kind.config)}

    def stored(self) -> Arrays:
        tensors: Arrays = dict(self.plain)
        for name, matrix in self.matrices.items():
            parts = self.kind.pack(self.kind, matrix)
            tensors |= {f"{name.removesuffix('.weight')}.{part}": array for part, array in parts.items()}
        return tensors

    def save(self, directory: Path) -> Path:
        directory.mkdir(exist_ok=True)
        save_file(self.stored(), directory / "model.safetensors", {"format": "pt"})
        (directory / "config.json").write_text(json.dumps(self.config()))
        return directory

    def floats(self) -> MemorySource:
        arrays = {**self.plain, **{name: matrix.floats() for name, matrix in self.matrices.items()}}
        return MemorySource(self.tiny.hf_config(), {name: ArrayTensor(name, a) for name, a in arrays.items()})
