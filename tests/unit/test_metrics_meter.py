"""The meter adds up what it is told: times of samples, tokens of steps, and it forgets nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import StepError
from plait.metrics import catalogue as c
from plait.metrics.histogram import Histogram, log_buckets
from plait.metrics.meter import Meter
from plait.metrics.process import process_figures
from plait.metrics.records import Bounds, StepRecord
from plait.metrics.snapshot import Window
from plait.types import EngineRequest, FinishReason, SamplingParams, TokenEvent


def request(name: str, prompt: int = 10, n: int = 1) -> EngineRequest:
    return EngineRequest(request_id=name, prompt=tuple(range(prompt)), sampling=SamplingParams(n=n, seed=1))


def token(name: str, *, tokens: int = 1, index: int = 0) -> TokenEvent:
    return TokenEvent(request_id=name, index=index, tokens=(7,) * tokens)


def end(name: str, *, tokens: int = 1, cached: int = 0, error: Exception | None = None) -> TokenEvent:
    reason = None if error else FinishReason.LENGTH
    return TokenEvent(
        request_id=name, index=0, tokens=(7,) * tokens, finish_reason=reason, error=error, prompt_tokens=10,
        cached_tokens=cached,
    )  # fmt: skip


def step(**fields: float) -> StepRecord:
    given = {
        "step": 0,
        "prompt_tokens": 6,
        "decode_tokens": 2,
        "sequences": 3,
        "budget": 16,
        "seconds": 0.4,
        "waiting": 0,
    }
    return StepRecord(**given | fields)  # type: ignore[arg-type]


def test_a_sample_s_times() -> None:
    meter = Meter(Bounds(2.0, 0.5))
    meter.arrived(request("a"), 1.0, "tenant")
    meter.step(step())
    meter.began("a", 0, 3, 1.5)
    meter.step(step())
    meter.step(step(decode_tokens=4))
    for now, event in [(2.0, token("a")), (2.25, token("a")), (2.75, token("a")), (3.0, end("a", cached=4))]:
        meter.events([event], now)
    sample = meter.finished[0]
    assert (sample.queue_s, sample.ttft_s, sample.end_to_end_s) == (0.5, 1.0, 2.0)
    assert sample.mean_batch_tokens == 9  # steps of 8 and of 10; the first was before its time
    assert sample.mean_itl_s == pytest.approx(1 / 3)
    assert (sample.worst_itl_s, sample.output_tokens, sample.cached_tokens) == (0.5, 4, 4)
    assert (sample.late_gaps, sample.in_time, sample.tenant, sample.end) == (0, True, "tenant", "length")
    snapshot = meter.snapshot(3.0)
    assert snapshot.histograms[c.ITL.name].count == 3
    assert snapshot.histograms[c.ITL.name].sum == 1.0
    assert snapshot.histograms[c.TTFT.name].sum == 1.0
    assert snapshot.value(c.HIT_RATE) == 0.4
    assert snapshot.value(c.IN_TIME) == 1


@pytest.mark.parametrize(
    ("first", "second", "error", "in_time"),
    [
        (1.0, 0.4, None, True),
        (2.5, 0.4, None, False),
        (1.0, 0.6, None, False),
        (1.0, 0.4, StepError("broken"), False),
    ],
)
def test_who_is_in_time(first: float, second: float, error: Exception | None, in_time: bool) -> None:
    meter = Meter(Bounds(2.0, 0.5))
    meter.arrived(request("a"), 0.0)
    meter.events([token("a")], first)
    meter.events([end("a", error=error)], first + second)
    assert meter.finished[0].in_time is in_time
    assert meter.snapshot(9.0).value(c.IN_TIME) == in_time


def test_one_gap_in_a_hundred_may_be_late() -> None:
    for late, in_time in ((1, True), (2, False)):
        meter, now = Meter(Bounds(2.0, 0.5)), 1.0
        meter.arrived(request("a"), 0.0)
        for number in range(120):
            now += 0.6 if 0 < number <= late else 0.1
            meter.events([end("a") if number == 119 else token("a")], now)
        assert meter.finished[0].late_gaps == late
        assert meter.finished[0].in_time is in_time


def test_without_bounds_nobody_is_in_time_or_late() -> None:
    meter = Meter()
    meter.arrived(request("a"), 0.0)
    meter.events([end("a")], 100.0)
    assert meter.finished[0].in_time is None


def test_several_tokens_at_once_share_the_gap() -> None:
    meter = Meter()
    meter.arrived(request("a"), 0.0)
    meter.events([token("a")], 1.0)
    meter.events([token("a", tokens=4)], 2.0)
    itl = meter.snapshot(2.0).histograms[c.ITL.name]
    assert (itl.count, itl.sum) == (4, 1.0)
    assert itl.quantile(0.5) <= 0.3


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.floats(0.001, 1)), max_size=60))
def test_every_token_is_counted_once(script: list[tuple[int, int, float]]) -> None:
    meter, now, tokens, seen = Meter(), 0.0, 0, set()
    for index in range(4):
        meter.arrived(request(f"r{index}"), 0.0)
    for who, count, gap in script:
        now += gap
        meter.events([token(f"r{who}", tokens=count), token("nobody")], now)
        tokens += count
        seen.add(who)
    snapshot = meter.snapshot(now)
    assert snapshot.value(c.GENERATED_TOKENS) == tokens
    assert snapshot.histograms[c.TTFT.name].count == len(seen)
    # The first event of a sample is its first token, however many it brings.
    firsts = {}
    for who, count, _ in script:
        firsts.setdefault(who, count)
    assert snapshot.histograms[c.ITL.name].count == tokens - sum(firsts.values())


def test_steps_add_up() -> None:
    meter = Meter()
    meter.step(step(plan_seconds=0.1, sample_seconds=0.08, running=3, sequence_limit=4, pages_free=5, preemptions=1))
    meter.step(step(prompt_tokens=0, decode_tokens=8, draft_tokens=6, accepted_tokens=3, recomputed_tokens=2))
    snapshot = meter.snapshot(1.0, waiting=2)
    split = {phase: snapshot.value(c.STEP_SECONDS, phase) for phase in c.PHASES}
    assert split == pytest.approx({"planning": 0.1, "prefill": 0.24, "decode": 0.08 + 0.4, "sampling": 0.08})
    assert snapshot.value(c.STEP_TOKENS, "prefill") == 6
    assert snapshot.value(c.STEP_TOKENS, "decode") == 10
    assert snapshot.value(c.TOKEN_USE) == 0.5
    assert snapshot.value(c.ACCEPTANCE) == 0.5
    assert (snapshot.value(c.PREEMPTIONS), snapshot.value(c.RECOMPUTED), snapshot.value(c.WAITING)) == (1, 2, 2)
    later = meter.snapshot(2.0)
    assert Window(snapshot, later).change(c.STEPS) == 0
    assert Window(snapshot, later).seconds == 1


def test_limits_and_rejections_are_counted() -> None:
    meter = Meter()
    meter.limits({"n_batch": 512, "n_parallel": 16}, ("n_batch", "n_parallel"))
    meter.limits({"n_batch": 256, "n_parallel": 16}, ("n_batch",))
    meter.rejected("prompt_too_long")
    meter.model({"step": 0.001})
    snapshot = meter.snapshot(0.0)
    assert snapshot.value(c.DECISIONS, "n_batch") == 2
    assert snapshot.value(c.LIMIT, "n_batch") == 256
    assert snapshot.value(c.REJECTED, "prompt_too_long") == 1
    assert snapshot.value(c.MODEL, "step") == 0.001


def test_the_snapshot_has_every_metric_but_those_a_system_hides(tmp_path: Path) -> None:
    meter = Meter()
    meter.step(step())
    meter.snapshot(0.0)
    hidden = process_figures(tmp_path / "none", tmp_path / "none")
    assert hidden.memory_bytes is None
    assert hidden.machine_load is None
    snapshot = meter.snapshot(1.0, figures=hidden)
    names = set(snapshot.values) | set(snapshot.histograms)
    assert names == {metric.name for metric in c.METRICS} - {c.MEMORY.name, c.MACHINE_LOAD.name}


def test_a_damaged_proc_is_no_figure(tmp_path: Path) -> None:
    (tmp_path / "statm").write_text("many")
    assert process_figures(tmp_path / "statm", tmp_path / "statm").memory_bytes is None


@given(st.lists(st.floats(0.0001, 200), min_size=1, max_size=50), st.floats(0.01, 1))
def test_quantiles_lie_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    histogram = Histogram(log_buckets(0.001, 100, 5))
    for value in values:
        histogram.observe(value)
    data = histogram.data()
    rank = next(n for n in range(1, len(values) + 1) if n >= q * len(values) - 1e-9)
    true = sorted(values)[rank - 1]
    low = max((b for b in data.bounds if b < true), default=0)
    high = min((b for b in data.bounds if b >= true), default=data.bounds[-1])
    assert low * (1 - 1e-9) <= data.quantile(q) <= high * (1 + 1e-9)
    assert data.minus(data).count == 0
    assert data.minus(data).quantile(0.5) == 0
