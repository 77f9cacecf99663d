"""Quantised models: the CPU backend's logits stay close to those of the reference on the dequantised weights.

Kernels may round activations to 8 bits before a product with quantised weights, so equality is to a few parts in a
hundred; what a wrong scale, block order or permutation does is far outside that.
"""

from __future__ import annotations

import numpy as np
import pytest

from plait.formats.tensor import F32Array
from plait.models.registry import load_model
from plait.ops.api import KVConfig
from support.backends import make_backend
from support.steps import Chunk, Driver
from support.tensors import FEW_BITS, MemorySource, in_blocks, in_k_formats, quantised
from support.tiny_llama import PROMPTS, TinyLlama

TINY = TinyLlama(d_model=64, ff=96, head_dim=16)
K_SIZED = TinyLlama(d_model=256, ff=512, head_dim=32, n_heads=8, n_layers=1)
KV = KVConfig(16, (16,), "f16")

SOURCES = {
    **{name: quantised(TINY.source("gguf"), name) for name in ("F16", "BF16", "Q8_0", "Q4_0")},
    "Q4_K_M": in_k_formats(K_SIZED.source("gguf"), np.random.default_rng(5)),
    **{name: in_blocks(K_SIZED.source("gguf"), name) for name in FEW_BITS},
}
TOLERANCE = {"F16": 2e-3, "BF16": 2e-3, "Q8_0": 0.04, "Q4_0": 0.04, "Q4_K_M": 0.04, **dict.fromkeys(FEW_BITS, 0.04)}
"""Of the norm of the logits."""


def logits(source: MemorySource, backend: str) -> F32Array:
    driver = Driver(make_backend(backend).compile(load_model(source).program, KV), KV)
    return np.array(driver.step({"a": Chunk.every(PROMPTS["a"])})["a"])


@pytest.mark.parametrize("name", SOURCES)
def test_cpu_is_close_to_the_reference(name: str) -> None:
    want, got = logits(SOURCES[name], "reference"), logits(SOURCES[name], "cpu-2")
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert error < TOLERANCE[name]
