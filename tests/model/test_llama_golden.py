"""The Llama family, both containers, every backend: logits equal transformers' own, kept in tests/golden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from plait.formats.tensor import F32Array
from plait.models.registry import load_model
from plait.ops.api import Backend, KVConfig
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


def whole(driver: Driver) -> Mapping[str, F32Array]:
    """One prompt after another, each in one step."""
    return {name: driver.step({name: Chunk.every(prompt)})[name] for name, prompt in PROMPTS.items()}


def chunked(driver: Driver) -> Mapping[str, F32Array]:
    """Chunks of five, all sequences in one step while they last."""
    parts: dict[str, list[F32Array]] = {name: [] for name in PROMPTS}
    for start in range(0, max(map(len, PROMPTS.values())), 5):
        chunks = {n: Chunk.every(prompt[start : start + 5]) for n, prompt in PROMPTS.items() if start < len(prompt)}
        for name, logits in driver.step(chunks).items():
            parts[name].append(logits)
    return {name: np.concatenate(each) for name, each in parts.items()}


def decoded(driver: Driver) -> Mapping[str, F32Array]:
    """One token at a time; the second sequence joins late, so that its prompt shares a step with decoding rows."""
    parts: dict[str, list[F32Array]] = {name: [] for name in PROMPTS}
    for i, token in enumerate(PROMPTS["a"]):
        chunks = {"a": Chunk.every([token])}
        if i == 9:
            chunks["b"] = Chunk.every(PROMPTS["b"][:11])
        if 9 < i < 16:
            chunks["b"] = Chunk.every([PROMPTS["b"][i + 1]])
        if i == 20:
            chunks["c"] = Chunk.every(PROMPTS["c"])
        for name, logits in driver.step(chunks).items():
            parts[name].append(logits)
    return {name: np.concatenate(each) for name, each in parts.items()}


@pytest.mark.parametrize("run", [whole, chunked, decoded])
@pytest.mark.parametrize("container", ["gguf", "safetensors"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_transformers(
    variant: str, container: str, run: Callable[[Driver], Mapping[str, F32Array]], backend: Backend
) -> None:
    model = load_model(VARIANTS[variant].source(container))
    driver = Driver(backend.compile(model.program, KV), KV, np.random.default_rng(0))
    for name, logits in run(driver).items():
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
