"""One vector for a prompt, and the log-probabilities of a prompt's tokens: the same whatever else runs, however the
prompt is cut up; and the faults of those who ask stay their own."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from plait import LLM, SamplingParams
from plait.engine.core import Engine
from plait.errors import RequestError, StepError
from plait.models.registry import LoadedModel, load_model
from plait.ops.api import KVConfig
from plait.scheduler.request import LONGEST_LOOK
from plait.types import EngineRequest, FinishReason, Pooling, Priority, TokenEvent
from support.backends import make_backend
from support.serving import CONTEXT, Faulty, collect, each_alone, engine_of, some_requests
from support.steps import Chunk, Driver
from support.tiny_llama import VARIANTS

Told = dict[str, tuple[object, ...]]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(VARIANTS["gqa"].source("safetensors"))


def asking(seed: int, count: int = 6) -> list[EngineRequest]:
    """Prompts that share beginnings, each with something to ask about all of it."""
    rng = random.Random(seed)
    kinds: list[dict[str, object]] = [
        {"pooling": Pooling.MEAN},
        {"pooling": Pooling.LAST},
        {"prompt_logprobs": 0},
        {"prompt_logprobs": 3},
    ]
    asked = []
    for i, request in enumerate(some_requests(seed, count)):
        kind = kinds[i % len(kinds)]
        params = replace(request.sampling, n=1 if "pooling" in kind else rng.choice((1, 2)))
        if i % 3 == 0:
            params = replace(params, max_tokens=0)
        asked.append(replace(request, request_id=f"q{i}", sampling=params, **kind))  # type: ignore[arg-type]
    return asked


def what_is_told(events: list[TokenEvent]) -> Told:
    """By request: embedding, log-probabilities of the prompt (each at most once)."""
    told: Told = {}
    for event in events:
        if event.embedding or event.prompt_logprobs:
            assert event.request_id not in told
            assert event.index == 0
            told[event.request_id] = (event.embedding, event.prompt_logprobs)
    return told


def serve(engine: Engine, requests: list[EngineRequest], arrivals: random.Random | None = None) -> list[TokenEvent]:
    events: list[TokenEvent] = []
    waiting = list(requests)
    while waiting or engine.has_work:
        while waiting and (arrivals is None or arrivals.random() < 0.4 or not engine.has_work):
            engine.add(waiting.pop(0))
        events += engine.step()
        engine.check()
    engine.close()
    return events


def told_alone(model: LoadedModel, requests: list[EngineRequest], backend: str) -> Told:
    told: Told = {}
    for request in requests:
        told |= what_is_told(serve(engine_of(model, n_parallel=1, backend=backend), [request]))
    return told


@pytest.mark.parametrize("backend", ["reference", "cpu-2"])
@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize(
    ("seed", "n_batch", "n_parallel", "pages"),
    [(1, 64, 8, 400), (2, 5, 3, 400), (3, 9, 6, 25), (4, 1, 2, 100)],
    ids=["roomy", "small-chunks", "narrow", "one-by-one"],
)
def test_what_is_told_is_what_each_is_told_alone(
    model: LoadedModel, seed: int, n_batch: int, n_parallel: int, pages: int, in_flight: int, backend: str
) -> None:
    asked, others = asking(seed), some_requests(seed + 50, 5)
    mixed = [one for pair in zip(asked, [*others, others[0]], strict=True) for one in pair][:-1]
    engine = engine_of(model, n_batch=n_batch, n_parallel=n_parallel, pages=pages, in_flight=in_flight, backend=backend)
    events = serve(engine, mixed, random.Random(seed))
    assert what_is_told(events) == told_alone(model, asked, backend)
    assert set(what_is_told(events)) == {request.request_id for request in asked}
    assert collect(events) == each_alone(model, mixed, backend)


@pytest.mark.parametrize("in_flight", [0, 1])
def test_giving_way_changes_nothing_that_is_told(model: LoadedModel, in_flight: int) -> None:
    long = [replace(one, prompt=tuple(range(10, 40)), priority=Priority.LOW) for one in asking(5)]
    urgent = [replace(one, priority=Priority.HIGH) for one in some_requests(9, 4)]
    engine = engine_of(model, n_batch=6, n_parallel=2, in_flight=in_flight)
    events: list[TokenEvent] = []
    for request in [*long[:3], urgent[0], long[3], *urgent[1:], *long[4:]]:
        engine.add(request)
        events += [event for _ in range(3) for event in engine.step()]
    events += list(engine.run())
    assert what_is_told(events) == told_alone(model, long, "reference")
    assert engine.stats.preemptions > 0
    assert engine._pools is not None
    assert engine._pools._sums == {}
    engine.close()


def test_the_numbers_are_those_of_the_models_own_rows(model: LoadedModel) -> None:
    prompt = tuple(range(10, 31))
    config = KVConfig(4, (40,), "f32")
    executable = make_backend("reference").compile(model.program, config)
    logits = Driver(executable, config).step({"a": Chunk.every(prompt)})["a"].astype(np.float64)
    hidden = executable.hidden().astype(np.float64)
    for pooling, vector in ((Pooling.MEAN, hidden.mean(0)), (Pooling.LAST, hidden[-1])):
        request = EngineRequest(request_id="a", prompt=prompt, sampling=SamplingParams(), pooling=pooling)
        (event,) = serve(engine_of(model, n_batch=4), [request])
        assert (event.finish_reason, event.tokens, event.prompt_tokens) == (FinishReason.STOP, (), len(prompt))
        np.testing.assert_allclose(event.embedding, vector / np.linalg.norm(vector), rtol=1e-5, atol=1e-6)
    request = EngineRequest(request_id="a", prompt=prompt, sampling=SamplingParams(max_tokens=0), prompt_logprobs=2)
    (event,) = serve(engine_of(model, n_batch=4), [request])
    assert event.finish_reason is FinishReason.LENGTH
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert event.prompt_logprobs[0] == ()
    for at, entry in enumerate(event.prompt_logprobs[1:]):
        assert entry[0].token == prompt[at + 1]
        assert [e.token for e in entry[1:]] == np.argsort(-log_probs[at], kind="stable")[:2].tolist()
        np.testing.assert_allclose([e.logprob for e in entry], [log_probs[at, e.token] for e in entry], rtol=1e-5)


def test_they_read_nothing_from_the_cache_but_may_write(model: LoadedModel) -> None:
    prompt = tuple(range(10, 34))
    engine = engine_of(model)
    for number, kind in enumerate(({"pooling": Pooling.MEAN}, {"prompt_logprobs": 0}, {}, {"pooling": Pooling.LAST})):
        engine.add(
            EngineRequest(request_id=f"{number}", prompt=prompt, sampling=SamplingParams(max_tokens=0), **kind)  # type: ignore[arg-type]
        )
        (event,) = engine.run()
        assert event.cached_tokens == (0 if number < 2 else 23)
    engine.close()


@pytest.mark.parametrize("in_flight", [0, 1])
def test_a_fault_stays_with_who_asked(model: LoadedModel, in_flight: int) -> None:
    asked, others = asking(6), some_requests(61, 4)
    bad = [replace(one, request_id=f"bad{i}", prompt=(*one.prompt, 9, 12)) for i, one in enumerate(asked[:4])]
    requests = [*asked, *bad, *others]
    engine = engine_of(model, in_flight=in_flight, wrap=lambda inner: Faulty(inner, raises_on=9))
    events = serve(engine, requests)
    ends = {event.request_id: event for event in events if event.final}
    assert {request_id for request_id, event in ends.items() if event.error} >= {one.request_id for one in bad}
    clean = [one for one in asked if ends[one.request_id].error is None]
    assert len(clean) > 3
    told = what_is_told(events)
    for request_id, what in told_alone(model, clean, "reference").items():
        assert told[request_id] == what
    assert not set(told) & {one.request_id for one in bad}


def test_rows_that_are_not_finite_are_the_error_of_their_request(model: LoadedModel) -> None:
    engine = engine_of(model, wrap=lambda inner: Faulty(inner, nan_on=14))
    engine.add(
        EngineRequest(request_id="a", prompt=tuple(range(10, 20)), sampling=SamplingParams(seed=1), prompt_logprobs=1)
    )
    (event,) = engine.run()
    assert isinstance(event.error, StepError)
    assert event.prompt_logprobs == ()
    engine.close()


def test_an_aborted_one_leaves_no_sum_behind(model: LoadedModel) -> None:
    for in_flight in (0, 1):
        engine = engine_of(model, n_batch=4, in_flight=in_flight)
        engine.add(
            EngineRequest(request_id="a", prompt=tuple(range(10, 40)), sampling=SamplingParams(), pooling=Pooling.MEAN)
        )
        engine.step()
        engine.step()
        engine.abort("a")
        (event,) = engine.run()
        assert event.finish_reason is FinishReason.ABORT
        assert event.embedding == ()
        assert engine._pools is not None
        assert engine._pools._sums == {}
        engine.close()


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_after_a_crash_nothing_is_told_twice(model: LoadedModel, kept: int) -> None:
    request = EngineRequest(
        request_id="a", prompt=(11, 12, 13), sampling=SamplingParams(seed=4, max_tokens=6), prompt_logprobs=1
    )
    events = serve(engine_of(model), [request])
    tokens = [token for event in events for token in event.tokens]
    again = serve(engine_of(model), [replace(request, resume=(tuple(tokens[:kept]),))])
    assert [token for event in again for token in event.tokens] == tokens[kept:]
    assert what_is_told(again) == ({} if kept else what_is_told(events))


def test_a_prompt_as_long_as_the_context_may_pool_but_not_draw(model: LoadedModel) -> None:
    prompt = tuple(10 + i % 30 for i in range(CONTEXT))
    pooled = EngineRequest(request_id="a", prompt=prompt, sampling=SamplingParams(), pooling=Pooling.MEAN)
    (event,) = serve(engine_of(model), [pooled])
    assert len(event.embedding) == 32
    engine = engine_of(model)
    with pytest.raises(RequestError):
        engine.add(replace(pooled, pooling=None))
    engine.close()


# --- the bundled model ----------------------------------------------------------------------------------------------


def test_embeddings_of_texts() -> None:
    texts = ["The cat sat on the mat.", "A cat was sitting on a mat.", "Seven trains were late", "x"]
    with LLM() as llm:
        vectors = np.array(llm.embed(texts))
        assert vectors.shape == (4, 512)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
        likeness = vectors @ vectors.T
        assert likeness[0, 1] > likeness[0, 2]
        assert llm.embed(texts[1], "last") == llm.embed(texts, "last")[1:2]
        assert llm.embed(texts[2]) == [tuple(vectors[2].tolist())]
        with pytest.raises(RequestError, match="pooling"):
            llm.embed("x", "max")


def test_a_long_prompt_is_looked_at_in_pieces() -> None:
    with LLM(adaptive="off") as llm:
        prompt = llm.tokenizer.encode("Once upon a time there was a little dog. " * 40)
        assert len(prompt) > 2 * LONGEST_LOOK
        request = EngineRequest(
            request_id="a", prompt=tuple(prompt), sampling=SamplingParams(max_tokens=0), prompt_logprobs=0
        )
        llm._engine.add(request)
        (event,) = llm._engine.run()
        assert len(event.prompt_logprobs) == len(prompt)
        assert max(record.prompt_tokens for record in llm._engine.records) == LONGEST_LOOK
