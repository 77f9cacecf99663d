"""A tiny random Llama through the whole engine: batching, chunking, the cache, preemption and steps in flight change no
token; a fault stays with its request."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import pytest

from plait.engine.runner import Runner
from plait.errors import OptionError, StepError
from plait.models.registry import LoadedModel, load_model
from plait.ops.api import Executable
from plait.scheduler.scheduler import Scheduler
from plait.types import EngineRequest, FinishReason, SamplingParams, TokenEvent
from support.backends import other_paths
from support.serving import STREAMS, Faulty, collect, each_alone, engine_of, greedy, serve, some_requests
from support.tiny_llama import VARIANTS


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(VARIANTS["gqa"].source("safetensors"))


@pytest.fixture(scope="module")
def windowed() -> LoadedModel:
    return load_model(VARIANTS["window"].source("safetensors"))


@pytest.mark.parametrize("backend", ["reference", "cpu-2"])
@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize(
    ("seed", "n_batch", "n_parallel", "pages", "reuse"),
    [(1, 64, 8, 400, True), (2, 5, 3, 400, True), (3, 9, 6, 20, True), (4, 16, 4, 30, False)],
    ids=["roomy", "small-chunks", "preempting", "no-reuse"],
)
def test_tokens_are_those_of_each_request_alone(
    model: LoadedModel,
    seed: int,
    n_batch: int,
    n_parallel: int,
    pages: int,
    reuse: bool,
    in_flight: int,
    backend: str,
) -> None:
    requests = some_requests(seed, 8)
    engine = engine_of(
        model, n_batch=n_batch, n_parallel=n_parallel, pages=pages, reuse=reuse, in_flight=in_flight, backend=backend
    )
    assert serve(engine, requests, random.Random(seed)) == each_alone(model, requests, backend)
    assert (engine.stats.preemptions > 0) == (pages == 20)


@pytest.mark.parametrize("path", other_paths())
def test_tokens_are_the_same_on_every_path(model: LoadedModel, path: str) -> None:
    requests = some_requests(3, 8)
    engine = engine_of(model, n_batch=9, n_parallel=6, pages=20, in_flight=1, backend=f"cpu-2:{path}")
    assert serve(engine, requests, random.Random(3)) == each_alone(model, requests, "cpu-1")


@pytest.mark.parametrize("in_flight", [0, 1])
def test_windowed_layers_give_pages_back_and_change_no_token(windowed: LoadedModel, in_flight: int) -> None:
    requests = some_requests(7, 6)
    engine = engine_of(windowed, n_batch=7, n_parallel=4, pages=40, in_flight=in_flight)
    assert serve(engine, requests) == each_alone(windowed, requests)


def without(requests: list[EngineRequest], token: int, model: LoadedModel) -> tuple[set[str], STREAMS]:
    """Ids of the requests that meet `token`, in the prompt or in an answer, and the streams of the others alone."""
    streams = each_alone(model, requests)
    met = {r.request_id for r in requests if token in r.prompt}
    met |= {request_id for (request_id, _), (tokens, _) in streams.items() if token in tokens}
    return met, {key: stream for key, stream in streams.items() if key[0] not in met}


@pytest.mark.parametrize("in_flight", [0, 1])
def test_a_step_that_raises_fails_only_the_request_that_makes_it_raise(model: LoadedModel, in_flight: int) -> None:
    requests = some_requests(21, 8)
    culprit = requests[3].prompt[-1]
    met, others = without(requests, culprit, model)
    assert "r3" in met
    assert len(met) < len(requests)
    faulty: list[Faulty] = []

    def wrap(inner: Executable) -> Executable:
        faulty.append(Faulty(inner, raises_on=culprit))
        return faulty[0]

    streams = serve(engine_of(model, n_batch=24, in_flight=in_flight, wrap=wrap), requests)
    assert {key: stream for key, stream in streams.items() if key[0] not in met} == others
    assert {end for key, (_, end) in streams.items() if key[0] == "r3"} == {StepError}
    assert faulty[0].runs > 0


@pytest.mark.parametrize("in_flight", [0, 1])
def test_a_row_without_finite_logits_fails_only_its_request(model: LoadedModel, in_flight: int) -> None:
    requests = some_requests(22, 8)
    culprit = requests[5].prompt[-1]
    met, others = without(requests, culprit, model)
    streams = serve(engine_of(model, in_flight=in_flight, wrap=lambda inner: Faulty(inner, nan_on=culprit)), requests)
    assert {key: stream for key, stream in streams.items() if key[0] not in met} == others
    assert {stream for key, stream in streams.items() if key[0] == "r5"} == {((), StepError)}


def test_the_message_of_a_failed_step_names_its_cause(model: LoadedModel) -> None:
    engine = engine_of(model, wrap=lambda inner: Faulty(inner, raises_on=11))
    engine.add(EngineRequest(request_id="a", prompt=(11,), sampling=SamplingParams(seed=1)))
    (event,) = engine.run()
    assert str(event.error) == (
        "the step failed on this request: FloatingPointError: a device that cannot bear this token"
    )
    assert isinstance(event.error.__cause__, FloatingPointError)
    engine.close()


@pytest.mark.parametrize("in_flight", [0, 1])
def test_abort_finish_and_close_end_each_sample_once(model: LoadedModel, in_flight: int) -> None:
    engine = engine_of(model, in_flight=in_flight)
    for name in "abcd":
        engine.add(greedy(name, (1, 2, 3, 4, 5, 6)))
    events = [event for _ in range(5) for event in engine.step()]
    engine.abort("a")
    engine.abort("unknown")
    engine.finish("b", 0)
    events += engine.step()
    events += engine.close()
    assert engine.close() == []
    assert not engine.has_work
    ends = {key[0]: end for key, (_, end) in collect(events).items()}
    assert ends == {"a": FinishReason.ABORT, "b": FinishReason.STOP, "c": FinishReason.ABORT, "d": FinishReason.ABORT}
    engine.check()


@pytest.mark.parametrize("in_flight", [0, 1])
def test_a_runner_that_breaks_ends_every_request_and_the_engine_goes_on(
    model: LoadedModel, in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(model, in_flight=in_flight)
    for name in "ab":
        engine.add(greedy(name, (1, 2, 3), 8))
    events = [event for _ in range(3) for event in engine.step()]
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "remember", lambda *_: 1 / 0)
        while not any(event.final for event in events):
            events += engine.step()
    assert {end for _, end in collect(events).values()} == {StepError}
    engine.check()
    assert not engine.has_work
    assert serve(engine, [greedy("c", (1, 2, 3), 8)]) == each_alone(model, [greedy("c", (1, 2, 3), 8)])


def test_the_totals_count_what_ran(model: LoadedModel) -> None:
    engine = engine_of(model, n_batch=10)
    prompt = tuple(range(10, 23))
    engine.add(greedy("a", prompt, 4))
    first = list(engine.run())
    engine.add(greedy("b", prompt, 4))
    list(engine.run())
    stats = engine.stats
    assert sum(len(e.tokens) for e in first) == 4
    assert (stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens) == (13 + 1, 12, 8)
    assert stats.decode_tokens == 6  # the first token of each comes from the prompt's last row
    assert stats.steps == len(engine.records) == 5 + 4
    assert stats.mean_tokens_per_step == pytest.approx(20 / 9)
    assert stats.utilisation == pytest.approx(20 / 90)
    assert stats.prefill_seconds + stats.decode_seconds == pytest.approx(sum(r.seconds for r in engine.records))
    assert [r.tokens for r in engine.records][:2] == [10, 3]
    engine.close()


def test_more_than_one_step_in_flight_is_refused(model: LoadedModel) -> None:
    with pytest.raises(OptionError, match="in_flight is 2; give 0 or 1"):
        engine_of(model, in_flight=2)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize("where", ["schedule", "commit", "expire"])
def test_an_interrupt_in_the_midst_of_a_step_loses_nothing(
    model: LoadedModel, in_flight: int, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = some_requests(5, 6)
    engine = engine_of(model, in_flight=in_flight)
    for one in requests:
        engine.add(one)
    wanted = each_alone(model, requests)
    inner, interrupts = getattr(Scheduler, where), random.Random(2)

    def interrupted(*args: object) -> object:
        if interrupts.random() < 0.3:
            signal.raise_signal(signal.SIGINT)
        return inner(*args)

    monkeypatch.setattr(Scheduler, where, interrupted)
    events: list[TokenEvent] = []
    caught = 0
    while engine.has_work:
        try:
            events += engine.step()
        except KeyboardInterrupt:
            caught += 1
        engine.check()
    assert caught > 1
    assert engine.close() == []
    assert collect(events) == wanted


@pytest.mark.parametrize("backend", ["reference", "cpu-2"])
@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize(("n_parallel", "pages"), [(1, 400), (3, 400), (4, 20)])
def test_guesses_change_no_token(model: LoadedModel, n_parallel: int, pages: int, in_flight: int, backend: str) -> None:
    requests = some_requests(31, 6) + [
        greedy(f"g{i}", tuple(10 + (i * k) % 7 for k in range(8)), max_tokens)
        for i, max_tokens in enumerate((None, 20))
    ]
    engine = engine_of(model, n_parallel=n_parallel, pages=pages, in_flight=in_flight, backend=backend, n_draft=6)
    assert serve(engine, requests) == each_alone(model, requests, backend)
    counters = engine._scheduler.counters
    assert 0 < counters.accepted_tokens < counters.drafted_tokens
    records = engine.records
    assert sum(record.draft_tokens for record in records) == counters.drafted_tokens == engine.meter.drafted
    assert sum(record.accepted_tokens for record in records) == counters.accepted_tokens == engine.meter.accepted
    assert all(record.accepted_tokens <= record.draft_tokens <= record.decode_tokens for record in records)
