"""Prefixes that end within a page, through the whole engine: what is copied has the bits of what is computed, and the
counts of cached tokens show it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait.cache.radix import LEAST_COPIED
from plait.engine.core import Engine
from plait.models.registry import LoadedModel, load_model
from plait.types import EngineRequest, SamplingParams, TokenEvent
from support.serving import engine_of, greedy
from support.tiny_llama import VARIANTS

PAGE = 4
EXACT = SamplingParams(temperature=0, seed=0, logprobs=2)
"""Log-probabilities are printed in full: equal ones mean equal bits of logits."""


@pytest.fixture(scope="module", params=["gqa", "window"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(VARIANTS[request.param].source("safetensors"))


def answers(engine: Engine, requests: list[EngineRequest]) -> dict[str, tuple[object, ...]]:
    """Tokens and their log-probabilities, by request."""
    for request in requests:
        engine.add(request)
    found: dict[str, tuple[object, ...]] = {}
    for event in engine.run():
        found[event.request_id] = (*found.get(event.request_id, ()), *zip(event.tokens, event.logprobs, strict=True))
        engine.check()
    return found


def cached_tokens(events: list[TokenEvent]) -> dict[str, int]:
    return {event.request_id: event.cached_tokens for event in events if event.final}


@st.composite
def rounds(draw: st.DrawFn) -> list[list[EngineRequest]]:
    """Rounds of requests, one after the other: each prompt begins as one before it did, up to anywhere."""
    made: list[tuple[int, ...]] = [()]
    out: list[list[EngineRequest]] = []
    for number in range(draw(st.integers(2, 4))):
        prompts = []
        for _ in range(draw(st.integers(1, 3))):
            before = draw(st.sampled_from(made))
            stem = before[: draw(st.integers(0, len(before)))]
            prompts.append((*stem, *draw(st.lists(st.integers(10, 13), min_size=1, max_size=9)))[:30])
        made += prompts
        most = draw(st.integers(1, 6))
        out.append(
            [
                EngineRequest(request_id=f"{number}.{i}", prompt=prompt, sampling=replace(EXACT, max_tokens=most))
                for i, prompt in enumerate(prompts)
            ]
        )
    return out


@pytest.mark.parametrize("backend", ["reference", "cpu-2"])
@settings(deadline=None, max_examples=12, derandomize=True, suppress_health_check=list(HealthCheck))
@given(given_rounds=rounds(), in_flight=st.sampled_from([0, 1]), pages=st.sampled_from([16, 60]))
def test_logits_after_a_copied_beginning_have_the_bits_of_a_fresh_run(
    model: LoadedModel, backend: str, given_rounds: list[list[EngineRequest]], in_flight: int, pages: int
) -> None:
    engine = engine_of(model, n_batch=16, pages=pages, in_flight=in_flight, backend=backend)
    for requests in given_rounds:
        fresh = {r.request_id: answers(engine_of(model, backend=backend), [r])[r.request_id] for r in requests}
        assert answers(engine, requests) == fresh
    engine.close()


def test_a_prompt_that_parts_within_a_page_computes_only_the_rest(model: LoadedModel) -> None:
    engine = engine_of(model)
    stem = tuple(range(10, 10 + 10))
    engine.add(greedy("a", (*stem, 30, 31, 32), 2))
    list(engine.run())
    for name, tail, cached in (("b", (33, 34), 10), ("c", (30, 35), 11), ("d", (33, 34), 11)):
        engine.add(greedy(name, stem + tail, 2))
        assert cached_tokens(list(engine.run())) == {name: cached}
    engine.close()


def test_the_next_turn_computes_its_own_tokens_and_the_last_one_of_the_answer(model: LoadedModel) -> None:
    """A conversation of random turns: what was said, answers too, is found to the token but for the last."""
    engine, rng, said = engine_of(model), random.Random(4), tuple[int, ...]()
    for turn in range(6):
        prompt = (*said, *(rng.randrange(10, 40) for _ in range(3)))
        engine.add(greedy(f"{turn}", prompt, 3))
        events = list(engine.run())
        computed = max(len(said) - 1, 0)
        assert cached_tokens(events) == {f"{turn}": computed - (computed % PAGE < LEAST_COPIED) * (computed % PAGE)}
        said = (*prompt, *(token for event in events for token in event.tokens))
    engine.close()
