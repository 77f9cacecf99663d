"""The tiny models of every family as tests compile them."""

from __future__ import annotations

import numpy as np

from plait.formats.tensor import F32Array
from plait.models.registry import LoadedModel, load_model
from plait.ops.api import Backend, KVConfig
from support.steps import Driver
from support.tiny_models import GGUF_ARCHITECTURES, HF_ONLY, TinyModel, tiny_models

SHORT = 32
"""What longrope's tiny model was trained for: prompts are shorter, and take its short factors as in transformers."""


def containers(tiny: TinyModel) -> tuple[str, ...]:
    gguf = tiny.name not in HF_ONLY and tiny.architecture in GGUF_ARCHITECTURES
    return ("safetensors", "gguf") if gguf else ("safetensors",)


CASES = [(name, container) for name, tiny in tiny_models().items() for container in containers(tiny)]


def load_tiny(name: str, container: str, seed: int = 0) -> LoadedModel:
    return load_model(tiny_models()[name].source(container, seed), SHORT)


def new_driver(model: LoadedModel, backend: Backend, kv_type: str = "f32") -> Driver:
    kv = KVConfig(16, (16,) * len(model.kv.groups), kv_type)
    return Driver(backend.compile(model.program, kv), kv, np.random.default_rng(0))


def close(got: F32Array, want: F32Array) -> None:
    """To 1e-4, of each logit and of the largest."""
    assert got.shape == want.shape
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
