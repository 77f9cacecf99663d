"""The search for who crashed the engine, and when to start it anew."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.config import SupervisorOptions, crash_token
from plait.errors import DeadlineError, OptionError, QueueTimeoutError
from plait.supervisor.restarts import LONGEST_DELAY_S, Restarts
from plait.supervisor.roster import Roster
from plait.supervisor.suspects import Suspects
from plait.supervisor.troubles import Troubles
from plait.types import EngineRequest, SamplingParams, TokenEvent


def _search(suspects: Suspects, present: set[int], culprits: set[int]) -> tuple[list[int], int]:
    """Runs whoever may run, all in one step; returns the convicted and the crashes."""
    convicted, crashes, done = [], 0, set[int]()
    while present - done:
        running = {number for number in present - done if suspects.may_run(number)}
        assert running, "everybody waits"
        suspects.check()
        if running & culprits:
            crashes += 1
            found = suspects.crashed(running)
            if found is not None:
                convicted.append(found)
                done.add(found)
            continue
        for number in running:
            suspects.cleared(number)
            done.add(number)
    return convicted, crashes


@given(st.integers(1, 300), st.data())
def test_one_culprit_is_found_by_halving(count: int, data: st.DataObject) -> None:
    culprit = data.draw(st.integers(0, count - 1))
    convicted, crashes = _search(Suspects(), set(range(count)), {culprit})
    assert convicted == [culprit]
    assert crashes <= math.log2(count) + 4


@given(st.integers(1, 60), st.sets(st.integers(0, 59), max_size=5))
def test_several_are_found_and_nobody_else(count: int, culprits: set[int]) -> None:
    culprits = {number for number in culprits if number < count}
    convicted, _ = _search(Suspects(), set(range(count)), culprits)
    assert sorted(convicted) == sorted(culprits)


def test_after_a_chance_crash_everybody_runs_again_within_two_rounds() -> None:
    suspects, everybody = Suspects(), set(range(200))
    suspects.crashed(everybody)
    first = {number for number in everybody if suspects.may_run(number)}
    assert len(first) == 100
    for number in first:
        suspects.cleared(number)
    assert all(suspects.may_run(number) for number in everybody)


def test_those_who_were_not_in_the_step_run_beside_the_trial() -> None:
    suspects = Suspects()
    suspects.crashed({1, 2, 3, 4})
    assert [number for number in range(1, 8) if suspects.may_run(number)] == [1, 2, 5, 6, 7]
    suspects.crashed({1, 2})
    assert [number for number in range(1, 8) if suspects.may_run(number)] == [1, 5, 6, 7]
    suspects.crashed({1, 6})
    assert [number for number in range(1, 8) if suspects.may_run(number)] == [1], "the last one is tried alone"


def test_a_token_between_two_crashes_alone_clears() -> None:
    suspects = Suspects()
    assert suspects.crashed({1}) is None
    suspects.cleared(1)
    assert suspects.crashed({1}) is None
    assert suspects.crashed({1}) == 1


def test_crashes_alone_count_only_in_a_row() -> None:
    suspects = Suspects()
    assert suspects.crashed({1}) is None
    assert suspects.crashed({1, 2}) is None
    assert suspects.crashed({1}) is None
    assert suspects.crashed({1}) == 1


def test_fruitless_starts_come_ever_later_and_then_no_more() -> None:
    restarts = Restarts(12)
    delays = [restarts.crashed(narrowed=False) for _ in range(12)]
    assert delays[0] == delays[1] or delays[0] == 0
    assert delays == sorted(delays)  # type: ignore[type-var]
    assert delays[-1] == LONGEST_DELAY_S
    assert restarts.crashed(narrowed=False) is None
    restarts.gained()
    assert restarts.crashed(narrowed=False) == 0
    assert restarts.crashed(narrowed=True) == 0
    assert restarts.fruitless == 1
    assert restarts.crashes == 15


@pytest.mark.parametrize(
    ("name", "value"), [("step_timeout", -1), ("step_timeout", "x"), ("max_restarts", 1.5), ("drain_timeout", -0.1)]
)
def test_an_unusable_option_is_refused_by_its_flag(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"--{name.replace('_', '-')} is"):
        SupervisorOptions(**{name: value})  # type: ignore[arg-type]


def test_the_token_that_crashes_is_for_tests_alone() -> None:
    assert crash_token({}) is None
    assert crash_token({"PLAIT_TEST_CRASH_TOKEN": "17"}) == 17
    with pytest.raises(OptionError, match="PLAIT_TEST_CRASH_TOKEN"):
        crash_token({"PLAIT_TEST_CRASH_TOKEN": "x"})


def test_an_engine_is_degraded_for_a_reason_and_for_a_time() -> None:
    troubles = Troubles(0.0)
    assert troubles.why(1.0, None) == troubles.why(1.0, 4.9) == ""
    assert "has taken 6 s" in troubles.why(1.0, 6.0)
    troubles.refused(10.0)
    assert "queue is full" in troubles.why(19.9, None)
    assert troubles.why(20.0, None) == ""
    troubles.full(20.0, 3.0)
    assert (troubles.retry_s(20.05), troubles.retry_s(20.1)) == (3.0, None)
    troubles.crashed(30.0)
    assert "ended 59 s ago" in troubles.why(89.0, None)
    assert troubles.why(90.0, None) == ""


def test_a_start_anew_may_not_take_for_ever() -> None:
    troubles = Troubles(0.0)
    assert not troubles.hangs(10_000.0), "the first start may"
    troubles.ready(20.0)
    troubles.started(1000.0)
    assert not troubles.hangs(1100.0)
    assert troubles.hangs(1100.1)


def test_whoever_waits_for_an_engine_waits_no_longer_than_it_said() -> None:
    roster = Roster(Restarts(5))
    params = SamplingParams(seed=1)
    for name, more in {
        "late": {"deadline": 5.0},
        "queued": {"queue_timeout": 3.0},
        "begun": {"queue_timeout": 3.0},
        "patient": {},
        "told": {"deadline": 5.0},
    }.items():
        roster.add(EngineRequest(request_id=name, prompt=(5,), sampling=params, **more), 0.0)
    roster.due(0.0)
    roster.take(TokenEvent("begun", 0, (7,)))
    assert roster.expired(9.0) == [], "the engine sees to those that it has"
    roster.crashed([])
    assert [(e.request_id, type(e.error)) for e in roster.expired(4.0)] == [("queued", QueueTimeoutError)]
    roster.abort("told")
    assert [(e.request_id, type(e.error)) for e in roster.expired(5.0)] == [("late", DeadlineError)]
    roster.check()
    assert sorted(roster.request_ids) == ["begun", "patient"]
