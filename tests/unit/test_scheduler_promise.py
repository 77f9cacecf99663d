"""Who can have the first token in time goes before who cannot; who is late is not put off for ever."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from test_scheduler_order import Loop, own

from plait.scheduler import policy
from plait.scheduler.policy import Promise
from plait.scheduler.request import Sample
from plait.types import Priority

PROMISE = Promise(0.5, 0.01)


def promising(loop: Loop, promise: Promise = PROMISE) -> Loop:
    loop.scheduler.limits = replace(loop.scheduler.limits, promise=promise)
    return loop


def test_who_has_missed_the_bound_comes_behind_who_can_hold_it() -> None:
    loop = promising(Loop(n_parallel=1))
    loop.add("runs", own(0), max_tokens=8)
    loop.step()
    loop.add("missed", own(1))
    loop.now += 0.6
    loop.add("fresh", own(2))
    loop.drain()
    assert loop.begun == ["runs", "fresh", "missed"]


def test_without_a_promise_age_decides() -> None:
    loop = Loop(n_parallel=1)
    loop.add("runs", own(0), max_tokens=8)
    loop.step()
    loop.add("old", own(1))
    loop.now += 0.6
    loop.add("fresh", own(2))
    loop.drain()
    assert loop.begun == ["runs", "old", "fresh"]


def test_a_prompt_too_long_for_the_bound_lets_short_ones_pass() -> None:
    loop = promising(Loop(n_parallel=1))
    loop.add("runs", own(0), max_tokens=8)
    loop.step()
    loop.add("long", own(1, 60))  # 0.6 s of tokens
    loop.add("short", own(2, 10))
    loop.drain()
    assert loop.begun == ["runs", "short", "long"]


def test_a_class_stays_above_those_below_it_however_late_it_is() -> None:
    loop = promising(Loop(n_parallel=1))
    loop.add("runs", own(0), max_tokens=8, priority=Priority.HIGH)
    loop.step()
    loop.add("high", own(1), priority=Priority.HIGH)
    loop.now += 0.6
    loop.add("normal", own(2))
    loop.drain()
    assert loop.begun == ["runs", "high", "normal"]


def test_a_late_prompt_that_is_being_computed_steps_aside() -> None:
    loop = promising(Loop(n_batch=16, n_parallel=4))
    loop.add("long", own(0, 120))
    loop.step()
    loop.add("short", own(1, 20))
    loop.step()
    loop.step()
    assert loop.begun == ["short"]
    loop.drain()
    assert loop.begun == ["short", "long"]


def test_the_late_are_put_off_no_longer_than_their_class_takes_to_rise() -> None:
    """Fresh requests without end, more than there is time for."""
    for late_prompt in (4, 60):  # by age, or by length; the latter is let in at once, and steps aside
        loop = promising(Loop(n_batch=16, n_parallel=1 if late_prompt == 4 else 4, step_s=0.1))
        loop.add("runs", own(0), max_tokens=2)
        loop.step()
        begin, number = loop.now, 0
        loop.add("late", own(1, late_prompt))
        loop.now += 0.6
        while "late" not in loop.begun:
            while loop.scheduler.num_waiting < 2:
                loop.add(f"n{number}", own(2 + number, 8), max_tokens=1)
                number += 1
            loop.step()
            assert loop.now - begin < policy.AGEING_S + 3
        assert loop.now - begin > policy.AGEING_S - 1


def naive(samples: list[Sample], now: float, promise: Promise) -> list[str]:
    def key(sample: Sample) -> policy.Key:
        request = sample.request
        waited = now - request.arrived
        aged = sample.rank[1] <= int((now - policy.AGEING_S) / policy.AGE_BUCKET_S)
        late = not aged and policy.is_late(promise, waited, len(sample.tokens) + sample.rank[2])
        return policy.key(sample.rank, request.priority, waited, request.account.tokens, late)

    return [sample.request.request_id for sample in sorted(samples, key=key)]


@given(
    st.lists(
        st.tuples(st.floats(0, 0.4), st.integers(0, 3), st.integers(1, 80), st.integers(0, 2)), min_size=1, max_size=40
    ),
    st.floats(0, 7),
    st.builds(Promise, st.floats(0.01, 8), st.floats(0, 0.05)),
)
def test_the_walk_over_lanes_is_the_sorted_queue(
    arrivals: list[tuple[float, int, int, int]], more_s: float, promise: Promise
) -> None:
    loop = Loop()
    for number, (gap, tenant, length, priority) in enumerate(arrivals):
        loop.now += gap
        loop.add(f"r{number}", own(number, length), tenant=f"t{tenant}", priority=Priority(priority))
    now = loop.now + more_s
    queue = loop.scheduler._admission.waiting
    found = [sample.request.request_id for sample in queue.ordered(now, promise)]
    assert found == naive(list(queue), now, promise)


def test_who_gave_way_is_late_though_somebody_had_waited_for_its_prompt() -> None:
    loop = promising(Loop(n_parallel=1, n_batch=8))
    loop.add("first", own(0, 60), priority=Priority.LOW)
    loop.step()
    loop.add("second", own(0, 60), priority=Priority.LOW)
    loop.step()
    sample = loop.scheduler.requests["first"].samples[0]
    loop.now += 1.0
    assert not sample.is_late(PROMISE, loop.now), "its prompt is waited for"
    loop.add("high", own(1), priority=Priority.HIGH)
    loop.step()
    assert sample.preempted == 1
    assert sample.is_late(PROMISE, loop.now), "somebody else will compute it"
    loop.drain()
