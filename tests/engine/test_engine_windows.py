"""Models whose layers keep different spans of the past (full and sliding ones), and those without rotary embeddings,
through the whole engine: a window's pages come back, prefixes are shared, steps are cut in chunks, no token changes.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from plait.formats.tensor import F32Array
from plait.models.registry import LoadedModel
from plait.types import EngineRequest, SamplingParams
from support.backends import make_backend
from support.families import load_tiny, new_driver
from support.serving import each_alone, engine_of, serve, some_requests
from support.steps import Chunk

ALTERNATING = ("gemma2", "gemma3", "cohere2", "exaone4-window", "qwen2-window", "ministral")
OTHERS = ("mpt", "gpt2", "smollm3", "olmo2", "falcon-40b")


@pytest.fixture(scope="module", params=ALTERNATING)
def alternating(request: pytest.FixtureRequest) -> LoadedModel:
    model = load_tiny(request.param, "safetensors")
    assert [group.window for group in model.kv.groups] == [None, 8]
    return model


@pytest.mark.parametrize("in_flight", [0, 1])
def test_groups_of_layers_change_no_token(alternating: LoadedModel, in_flight: int) -> None:
    requests = some_requests(7, 6)
    engine = engine_of(alternating, n_batch=7, n_parallel=4, pages=60, in_flight=in_flight, backend="cpu-2")
    assert serve(engine, requests, random.Random(1)) == each_alone(alternating, requests)


def test_too_few_pages_preempt_and_change_no_token(alternating: LoadedModel) -> None:
    requests = some_requests(5, 8)
    engine = engine_of(alternating, n_batch=9, n_parallel=6, pages=30, backend="cpu-2")
    assert serve(engine, requests, random.Random(2)) == each_alone(alternating, requests)


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_are_served_as_they_are_alone(name: str) -> None:
    model, requests = load_tiny(name, "safetensors"), some_requests(3, 5)
    engine = engine_of(model, n_batch=6, n_parallel=4, in_flight=1, backend="cpu-2")
    assert serve(engine, requests) == each_alone(model, requests)


def greedily(model: LoadedModel, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Without scheduler and cache."""
    driver, tokens = new_driver(model, make_backend("reference")), list(prompt)
    logits: F32Array = driver.step({"a": Chunk.last(tokens)})["a"]
    for _ in range(count):
        tokens.append(int(np.argmax(logits[-1])))
        logits = driver.step({"a": Chunk.last(tokens[-1:])})["a"]
    return tuple(tokens[len(prompt) :])


def test_tokens_are_the_models_own(alternating: LoadedModel) -> None:
    """A prompt far longer than the window, computed twice: the second time most of it lies in the cache."""
    prompt = tuple(random.Random(4).randrange(10, 40) for _ in range(25))
    engine = engine_of(alternating, n_batch=8, pages=40)
    want = greedily(alternating, prompt, 12)
    for number in range(2):
        request = EngineRequest(
            request_id=f"r{number}", prompt=prompt, sampling=SamplingParams(temperature=0, max_tokens=12)
        )
        engine.add(request)
        tokens: list[int] = []
        while engine.has_work:
            for event in engine.step():
                tokens += event.tokens
            engine.check()
        assert tuple(tokens) == want
    engine.close()
