"""Positions up to 128k, at small width: rotary embeddings and slopes stay exact far out, and a row reads 128k keys."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from plait.formats.tensor import F32Array
from plait.models.registry import LoadedModel, load_model
from plait.ops.api import Backend, KVConfig
from plait.ops.reference_math import rotate
from support.backends import make_backend
from support.families import close, load_tiny, new_driver
from support.steps import Chunk, Driver
from support.tiny_llama import LLAMA3, TinyLlama
from support.tiny_models import PROMPTS

LONG = 131072
FAR = LONG - 24
VARIANTS = ("llama", "llama-yarn", "phi3-longrope", "gemma3", "mpt", "smollm3", "cohere2", "glm4", "falcon-rw")


@pytest.mark.parametrize("name", VARIANTS)
def test_far_out_distances_count_as_near_by(name: str, backend: Backend) -> None:
    model = load_tiny(name, "safetensors")
    driver = new_driver(model, backend)
    near = driver.step({"near": Chunk.every(PROMPTS["a"])})["near"]
    far = driver.pack({"far": Chunk.every(PROMPTS["a"])})
    far = replace(far, positions=far.positions + np.int32(FAR))
    close(driver.executable.run(far), near)


def tensors(model: TinyLlama) -> dict[str, F32Array]:
    return {name: array.astype(np.float64) for name, array in model.hf_tensors().items()}  # type: ignore[misc]


def last_logits(tiny: TinyLlama, model: LoadedModel, tokens: np.ndarray, window: int | None) -> np.ndarray:
    """Of the last of `tokens`, in float64 and by the formulas: one layer, one head."""
    w, eps = tensors(tiny), tiny.eps

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * w[f"{name}.weight"]

    layer = "model.layers.0."
    x = w["model.embed_tokens.weight"][tokens]
    normed = norm(x, f"{layer}input_layernorm")
    q, k, v = (normed @ w[f"{layer}self_attn.{part}_proj.weight"].T for part in "qkv")
    rope = model.config.rope
    assert rope is not None
    positions = np.arange(len(tokens))
    q, k = (rotate(part[:, None], positions, rope)[:, 0] for part in (q, k))
    first = 0 if window is None else len(tokens) - window
    scores = k[first:] @ q[-1] * model.config.attention_scale
    weights = np.exp(scores - scores.max())
    mixed = weights @ v[first:] / weights.sum()
    x = x[-1] + w[f"{layer}self_attn.o_proj.weight"] @ mixed
    normed = norm(x, f"{layer}post_attention_layernorm")
    gate, up = (w[f"{layer}mlp.{part}_proj.weight"] @ normed for part in ("gate", "up"))
    x = x + w[f"{layer}mlp.down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * up)
    logits: np.ndarray = w["lm_head.weight"] @ norm(x, "model.norm")
    return logits


@pytest.mark.parametrize("window", [4096, pytest.param(None, marks=pytest.mark.slow)])
def test_a_row_reads_all_its_keys_of_128k(window: int | None) -> None:
    tiny = TinyLlama(n_layers=1, d_model=16, n_heads=1, n_kv_heads=1, head_dim=8, ff=16, context=LONG, window=window,
                     rope=None if window else LLAMA3)  # fmt: skip
    model = load_model(tiny.source("safetensors"))
    kv = KVConfig(64, (LONG // 64 + 1,), "f32")
    driver = Driver(make_backend("cpu-2").compile(model.program, kv), kv)
    tokens = np.random.RandomState(5).randint(0, tiny.vocab, LONG)
    for start in range(0, LONG, 8192):
        part = tokens[start : start + 8192].tolist()
        chunk = Chunk.last(part) if start + 8192 == LONG else Chunk(part)
        logits = driver.step({"a": chunk})["a"]
    want = last_logits(tiny, model, tokens, window)
    np.testing.assert_allclose(logits[0], want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
