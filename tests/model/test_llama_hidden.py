"""Hidden states against transformers' own, and what pools of them: fresh weights of every variant."""

from __future__ import annotations

import numpy as np
import pytest

from plait.engine.core import Engine
from plait.models.registry import load_model
from plait.ops.api import KVConfig
from plait.types import EngineRequest, Pooling, SamplingParams
from support.backends import make_backend
from support.serving import engine_of
from support.steps import Chunk, Driver
from support.tiny_llama import PROMPTS, VARIANTS

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

KV = KVConfig(16, (16,), "f32")


@pytest.mark.parametrize("backend", ["reference", "cpu-2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_are_those_of_transformers(variant: str, backend: str) -> None:
    from support.transformers_oracle import transformers_hidden

    tiny, seed = VARIANTS[variant], 2026
    want = np.concatenate(transformers_hidden(tiny, list(PROMPTS.values()), seed))
    executable = make_backend(backend).compile(load_model(tiny.source("safetensors", seed)).program, KV)
    Driver(executable, KV).step({name: Chunk.every(prompt) for name, prompt in PROMPTS.items()})
    np.testing.assert_allclose(executable.hidden(), want, rtol=1e-4, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize("pooling", Pooling)
def test_vectors_are_those_of_transformers(pooling: Pooling) -> None:
    from support.transformers_oracle import transformers_hidden

    tiny, prompts = VARIANTS["gqa"], list(PROMPTS.values())
    engine: Engine = engine_of(load_model(tiny.source("gguf")), n_batch=7, in_flight=1, backend="cpu-2")
    for number, prompt in enumerate(prompts):
        engine.add(EngineRequest(request_id=f"{number}", prompt=prompt, sampling=SamplingParams(), pooling=pooling))
    vectors = {event.request_id: event.embedding for event in engine.run()}
    for number, hidden in enumerate(transformers_hidden(tiny, prompts)):
        pooled = hidden.mean(0) if pooling is Pooling.MEAN else hidden[-1]
        np.testing.assert_allclose(vectors[f"{number}"], pooled / np.linalg.norm(pooled), rtol=1e-4, atol=1e-5)
    engine.close()
