"""The Llama family against transformers itself: fresh seeds, and the files that transformers writes."""

from __future__ import annotations

import numpy as np
import pytest

from plait.models.registry import load_model
from plait.ops.api import KVConfig
from plait.ops.reference import ReferenceBackend
from support.steps import Chunk, Driver
from support.tiny_llama import PROMPTS, VARIANTS

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

KV = KVConfig(16, (16,), "f32")


@pytest.mark.parametrize("container", ["gguf", "safetensors"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_fresh_weights(variant: str, container: str) -> None:
    from support.transformers_oracle import transformers_logits

    tiny, seed = VARIANTS[variant], 2026
    want = transformers_logits(tiny, list(PROMPTS.values()), seed)
    executable = ReferenceBackend().compile(load_model(tiny.source(container, seed)).program, KV)
    got = Driver(executable, KV).step({name: Chunk.every(prompt) for name, prompt in PROMPTS.items()})
    for logits, expected in zip(got.values(), want, strict=True):
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=2e-5 * np.abs(expected).max())
