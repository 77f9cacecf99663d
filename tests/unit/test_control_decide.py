"""The decision: limits stay within bounds, budgets leave room for every stream, and a constant load settles."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.control.controller import replay
from plait.control.decide import LEAST_CHUNK, decide
from plait.control.goals import PROFILES, Hours, Schedule, goals_of, start_of
from plait.control.records import Decision, Goals, LoadSnapshot, Setting
from plait.control.steptime import StepTime

MODEL = StepTime(0.001, 0.0002, 0.0001, 0.0)
GOALS = goals_of("balanced", ttft_s=0.5, itl_s=0.05)


def load(**fields: object) -> LoadSnapshot:
    known: dict[str, object] = {
        "at_s": 100.0, "model": MODEL, "spread": 1.0, "streams": 8, "running": 8, "waiting": 0, "peak_running": 8,
        "stream_keys": 0.0, "prompt_keys": 0.0, "changed_s": 0.0, "squeezed_s": -100.0,
    }  # fmt: skip
    return LoadSnapshot(**known | fields)  # type: ignore[arg-type]


costs = st.floats(0, 0.1)
models = st.builds(StepTime, costs, costs, costs, st.floats(0, 1e-4))
loads = st.builds(
    LoadSnapshot,
    at_s=st.floats(0, 1000),
    model=models,
    spread=st.floats(1, 1.5),
    streams=st.integers(0, 600),
    running=st.integers(0, 600),
    waiting=st.integers(0, 5000),
    peak_running=st.integers(0, 600),
    stream_keys=st.floats(0, 1e5),
    prompt_keys=st.floats(0, 1e5),
    changed_s=st.floats(-10, 1000),
    squeezed_s=st.floats(-10, 1000),
)
goals = st.builds(
    goals_of, st.sampled_from(sorted(PROFILES)), ttft_s=st.floats(0.01, 10), itl_s=st.floats(0.001, 1)
)  # fmt: skip
settings = st.builds(Setting, st.integers(1, 4096), st.none() | st.integers(1, 4096), st.integers(1, 256))


@given(loads, settings, goals)
def test_limits_stay_within_their_range(snapshot: LoadSnapshot, before: Setting, held: Goals) -> None:
    decision = decide(snapshot, before, held)
    after = decision.after
    if "n_batch" in decision.changed:
        assert 1 <= after.n_batch <= max(held.most_batch, before.n_batch)
    if "n_prefill" in decision.changed:
        assert 1 <= (after.n_prefill or 0) <= held.most_batch
    if "n_parallel" in decision.changed:
        assert held.least_parallel <= after.n_parallel <= held.most_parallel
    assert bool(decision.changed) == bool(decision.reasons)
    assert all(any(digit in reason for digit in "0123456789") for reason in decision.reasons)


@given(loads, settings, goals)
def test_a_budget_never_starves_streams_or_prompts(snapshot: LoadSnapshot, before: Setting, held: Goals) -> None:
    after = decide(snapshot, before, held).after
    if after.n_prefill != before.n_prefill:
        assert after.n_prefill is not None
        assert after.n_prefill >= LEAST_CHUNK
    if after.n_batch != before.n_batch:
        assert after.n_batch >= min(max(snapshot.streams, 1), held.most_batch - LEAST_CHUNK)


@given(loads, settings, goals)
def test_a_constant_load_settles(snapshot: LoadSnapshot, before: Setting, held: Goals) -> None:
    """Long after the last change the same load asks for the same limits again, and then for no change."""
    setting, when = before, snapshot.at_s + 1000
    for _ in range(3):
        later = LoadSnapshot(
            **{name: getattr(snapshot, name) for name in LoadSnapshot.__slots__}
            | {"at_s": when, "changed_s": when - 10}
        )
        decision = decide(later, setting, held)
        setting, when = decision.after, when + 10
    assert decision.changed == ()


@given(loads, settings)
def test_fixed_limits_do_not_move(snapshot: LoadSnapshot, before: Setting) -> None:
    known = {name: getattr(GOALS, name) for name in Goals.__slots__}
    after = decide(snapshot, before, Goals(**known | {"fixed_batch": True})).after
    assert (after.n_batch, after.n_prefill) == (before.n_batch, before.n_prefill)
    assert decide(snapshot, before, Goals(**known | {"fixed_parallel": True})).after.n_parallel == before.n_parallel


@given(loads, settings, goals)
def test_a_decision_is_replayed_from_its_log(snapshot: LoadSnapshot, before: Setting, held: Goals) -> None:
    made = decide(snapshot, before, held)
    read = Decision.from_dict(json.loads(json.dumps(made.as_dict())))
    assert read == made
    assert replay([read]) == [made]


def test_a_step_at_the_budget_holds_the_bound() -> None:
    after = decide(load(), Setting(2048, None, 8), GOALS).after
    assert after.n_prefill is not None
    assert 0.8 * 0.05 < MODEL.seconds(8, after.n_prefill, 0) <= 0.05
    assert 0.8 * 0.125 < MODEL.seconds(0, after.n_batch, 0) <= 0.5 / 4


def test_keys_and_spread_make_budgets_smaller() -> None:
    plain = decide(load(), Setting(1024, 1024, 8), GOALS).after.n_prefill or 0
    keys = StepTime(0.001, 0.0002, 0.0001, 1e-7)
    with_keys = decide(load(model=keys, prompt_keys=1000), Setting(1024, 1024, 8), GOALS).after.n_prefill or 0
    assert with_keys < 0.6 * plain
    assert (decide(load(spread=1.4), Setting(1024, 1024, 8), GOALS).after.n_prefill or 0) < 0.75 * plain


def test_a_budget_falls_at_once_and_rises_when_it_is_worth_it() -> None:
    allowed = decide(load(), Setting(1024, None, 8), GOALS).after.n_prefill or 0
    just_now = load(changed_s=99.9)
    assert decide(just_now, Setting(1024, None, 8), GOALS).after.n_prefill == allowed
    assert decide(just_now, Setting(2048, 100, 8), GOALS).after.n_prefill == 100
    assert decide(load(), Setting(1024, 100, 8), GOALS).after.n_prefill == allowed
    assert decide(load(), Setting(1024, allowed - 8, 8), GOALS).after.n_prefill == allowed - 8


def test_what_a_row_costs_follows_the_model_with_some_rest() -> None:
    held = replace(GOALS, guesses=True)
    first = decide(load(), Setting(1024, None, 8), held)
    assert first.after.row_share == pytest.approx(0.2)
    assert "a row takes 200 us, a step 1000 us" in first.reasons[-1]
    near = decide(load(model=StepTime(0.001, 0.00022, 0.0001, 0.0)), first.after, held)
    assert near.after.row_share == first.after.row_share
    dear = decide(load(stream_keys=1000, model=StepTime(0.001, 0.0002, 0.0001, 1e-6)), first.after, held)
    assert dear.after.row_share == pytest.approx(1.2)
    assert decide(load(), Setting(1024, None, 8), GOALS).after.row_share == 0


def test_places_follow_the_queue_up_to_the_bound() -> None:
    crowd = load(waiting=30)
    decision = decide(crowd, Setting(256, 256, 8), GOALS)
    assert decision.after.n_parallel == 38
    assert "30 samples wait" in decision.reasons[-1]
    assert decide(load(waiting=30, running=7), Setting(256, 256, 8), GOALS).after.n_parallel == 8
    slow = StepTime(0.001, 0.003, 0.0001, 0.0)
    assert decide(load(waiting=30, model=slow), Setting(24, 24, 8), GOALS).after.n_parallel == 14


def test_places_fall_when_it_is_quiet_and_not_before() -> None:
    assert decide(load(streams=3, running=3, peak_running=10), Setting(256, 256, 40), GOALS).after.n_parallel == 15
    assert decide(load(streams=3, running=3, peak_running=30), Setting(256, 256, 40), GOALS).after.n_parallel == 40
    assert decide(load(streams=0, running=0, peak_running=0), Setting(256, 256, 20), GOALS).after.n_parallel == 8


def test_places_fall_when_streams_alone_break_the_bound() -> None:
    slow = StepTime(0.001, 0.003, 0.0001, 0.0)
    decision = decide(load(streams=30, running=30, model=slow), Setting(64, 64, 30), GOALS)
    assert decision.after.n_parallel == 14
    assert "30 streams take 91.0 ms a step of the 50 ms bound" in decision.reasons[-1]


def test_no_more_places_while_pages_run_out() -> None:
    short = load(waiting=30, squeezed_s=98.0)
    assert decide(short, Setting(256, 256, 8), GOALS).after.n_parallel == 8
    fewer = decide(load(running=12, waiting=5, squeezed_s=98.0), Setting(256, 256, 40), GOALS)
    assert fewer.after.n_parallel == 12
    assert "pages ran out" in fewer.reasons[-1]


def test_a_bound_that_cannot_be_held_says_so() -> None:
    slow = StepTime(0.3, 0.01, 0.01, 0.0)
    decision = decide(load(model=slow, streams=1, running=1), Setting(512, 512, 8), GOALS)
    assert decision.after.n_prefill == decision.after.n_batch - 1 == LEAST_CHUNK
    assert "no room" in decision.reasons[0]


def test_hours_of_the_day() -> None:
    night = Hours(22 * 60, 6 * 60, goals_of("throughput"))
    schedule = Schedule(GOALS, (night,))
    assert [schedule.at(60 * hour).name for hour in (21, 22, 3, 6, 12)] == [
        "balanced", "throughput", "throughput", "balanced", "balanced",
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_profiles_start_within_their_range(name: str) -> None:
    held, start = goals_of(name), start_of(name)
    assert held.least_parallel <= start.n_parallel <= held.most_parallel
    assert start.n_batch <= held.most_batch
    assert goals_of(name, itl_s=0.007).itl_s == 0.007


def test_the_order_s_bound_follows_the_load_with_some_rest() -> None:
    first = decide(load(), Setting(1024, 256, 8), GOALS)
    assert first.after.ttft_s == pytest.approx(0.4)
    chunk = first.after.n_prefill or 0
    assert first.after.token_s == pytest.approx(0.0001 + (0.001 + 8 * 0.0002) / chunk)
    assert any("token_s 0.000000 to 0.000106" in why for why in first.reasons)
    near = decide(load(model=StepTime(0.001, 0.0002, 0.00012, 0.0)), first.after, GOALS)
    assert near.after.token_s == first.after.token_s
    dear = decide(load(model=StepTime(0.001, 0.0002, 0.0002, 0.0)), first.after, GOALS)
    assert dear.after.token_s > 0.0002
    fixed = replace(GOALS, fixed_batch=True, fixed_parallel=True)
    assert decide(load(), Setting(1024, 256, 8), fixed).after.ttft_s == 0
