"""The Llama family, both containers, every backend: logits equal transformers' own, kept in tests/golden."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plait.formats.tensor import F32Array
from plait.models.registry import load_model
from plait.ops.api import Backend, KVConfig
from support.schedules import Schedule, chunked, decoded, whole
from support.steps import Chunk, Driver
from support.tiny_llama import PROMPTS, VARIANTS

GOLDEN = Path(__file__).parent.parent / "golden" / "llama_logits.npz"
KV = KVConfig(16, (16,), "f32")


def golden(variant: str, prompt: str) -> F32Array:
    with np.load(GOLDEN) as file:
        return file[f"{variant}/{prompt}"]


def close(got: F32Array, want: F32Array) -> None:
    assert got.shape == want.shape
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("run", [whole, chunked, decoded])
@pytest.mark.parametrize("container", ["gguf", "safetensors"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_transformers(variant: str, container: str, run: Schedule, backend: Backend) -> None:
    model = load_model(VARIANTS[variant].source(container))
    driver = Driver(backend.compile(model.program, KV), KV, np.random.default_rng(0))
    for name, logits in run(driver, PROMPTS).items():
        close(logits, golden(variant, name))


def test_only_the_rows_that_want_logits_get_them(backend: Backend) -> None:
    model = load_model(VARIANTS["gqa"].source("gguf"))
    driver = Driver(backend.compile(model.program, KV), KV)
    got = driver.step({"a": Chunk(PROMPTS["a"], [3, 23]), "b": Chunk(PROMPTS["b"]), "c": Chunk.last(PROMPTS["c"])})
    close(got["a"], golden("gqa", "a")[[3, 23]])
    assert got["b"].shape == (0, 40)
    close(got["c"], golden("gqa", "c"))


def test_a_step_without_logits_still_stores_its_keys(backend: Backend) -> None:
    model = load_model(VARIANTS["window"].source("safetensors"))
    driver = Driver(backend.compile(model.program, KV), KV)
    assert driver.step({"a": Chunk(PROMPTS["a"][:20])})["a"].shape == (0, 40)
    close(driver.step({"a": Chunk.every(PROMPTS["a"][20:])})["a"], golden("window", "a")[20:])


def test_variants_differ() -> None:
    """What a variant varies must show, or its golden logits prove nothing."""
    plain = golden("gqa", "a")
    for variant in ("linear", "llama3", "attention-bias", "mlp-bias", "window"):
        assert np.abs(golden(variant, "a") - plain).max() > 1e-2, variant
