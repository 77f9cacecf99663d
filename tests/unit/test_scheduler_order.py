"""Who is let in first, who gives way, who is turned away: the order of the scheduler, rule by rule."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import DeadlineError, OptionError, QueueFullError, QueueTimeoutError
from plait.scheduler import policy
from plait.scheduler.fairness import FairShare
from plait.scheduler.lengths import OutputLengths, left
from plait.scheduler.limits import QueueBounds
from plait.types import CacheMode, Priority
from support.scheduler_loop import Loop, own

# --- classes, age, shares ---------------------------------------------------------------------------------------------


def test_the_more_urgent_class_goes_first() -> None:
    loop = Loop(n_parallel=1)
    for number, priority in enumerate((Priority.BACKGROUND, Priority.LOW, Priority.NORMAL, Priority.HIGH)):
        loop.add(priority.name, own(number), priority=priority)
    loop.drain()
    assert loop.begun == ["HIGH", "NORMAL", "LOW", "BACKGROUND"]


def test_a_request_that_waits_rises_and_one_of_the_background_does_not() -> None:
    assert [policy.level(Priority.LOW, s) for s in (0, 4.9, 5, 10, 50, 61)] == [2, 2, 1, 0, 0, -1]
    assert policy.level(Priority.HIGH, 0) == 0
    assert policy.level(Priority.BACKGROUND, 1e9) == 3
    loop = Loop(n_parallel=1)
    loop.add("low", own(0), priority=Priority.LOW)
    loop.now += 2 * policy.AGEING_S
    loop.add("high", own(1), priority=Priority.HIGH)
    loop.drain()
    assert loop.begun == ["low", "high"]


def test_among_equals_the_one_with_more_in_memory_goes_first() -> None:
    loop = Loop(n_parallel=1)
    loop.add("teacher", own(7, 20))
    loop.drain()
    loop.add("fresh", own(1, 20))
    loop.add("cached", (*own(7, 19), 3))
    loop.drain()
    assert loop.begun == ["teacher", "cached", "fresh"]


def test_tenants_get_equal_shares_however_much_they_ask() -> None:
    rng = random.Random(1)
    loop = Loop(n_parallel=4, step_s=0.02)
    served: Counter[str] = Counter()
    number = 0
    tenant_of: dict[str, str] = {}
    for step in range(600):
        for tenant, often in (("greedy", 1), ("modest", 8)):
            if step % often == 0 and loop.scheduler.num_waiting < 400:
                name = f"{tenant}{number}"
                tenant_of[name] = tenant
                loop.add(name, own(rng.randrange(1000), 9), max_tokens=6, tenant=tenant)
                number += 1
        loop.step()
    served.update(tenant_of[name] for name in loop.ended)
    assert served["modest"] >= 600 // 8 - 12, "who asks for less than a share gets all of it"
    assert served["greedy"] > served["modest"]


def test_many_names_under_one_key_have_the_share_of_one() -> None:
    fair = FairShare()
    first, second, other = (fair.enter(name) for name in ("key-1/a", "key-1/b", "key-2"))
    assert first is second is fair.enter("key-1")
    first.tokens += 7
    assert fair.counters() == {"key-1": 7, "key-2": 0}
    for account in (first, second, first, other):
        fair.leave(account)
    assert fair.counters() == {}


def test_a_pause_saves_no_credit() -> None:
    fair = FairShare()
    busy = fair.enter("busy")
    busy.tokens += 1000
    assert fair.enter("new").tokens == 1000
    fair.leave(busy)
    late = fair.enter("late")
    assert late.tokens == 1000
    late.tokens += 5
    assert fair.enter("busy").tokens == 1000
    assert fair.counters() == {"new": 1000, "late": 1005, "busy": 1000}


def test_no_wait_is_without_bound() -> None:
    """Endless urgent work of ever new tenants does not keep a request of a heavy tenant out for ever."""
    loop = Loop(n_parallel=1, step_s=0.25)
    loop.add("heavy0", own(0), max_tokens=30, tenant="heavy")
    loop.step()
    loop.scheduler._fair.enter("light")
    loop.scheduler._fair.enter("heavy").tokens += 1e6
    loop.add("low", own(1), priority=Priority.LOW, tenant="heavy")
    begin, number = loop.now, 0
    while "low" not in loop.begun:
        while loop.scheduler.num_waiting < 3:
            loop.add(f"n{number}", own(2 + number), max_tokens=8, tenant=f"t{number}", priority=Priority.HIGH)
            number += 1
        loop.step()
        assert loop.now - begin < policy.OVERDUE_S + 10
    assert loop.now - begin > policy.OVERDUE_S - 10


@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(0, 100), st.integers(0, 40), st.integers(0, 5000)), min_size=1),
    st.floats(100, 200),
)
def test_the_key_orders_as_the_design_says(requests: list[tuple[int, float, int, int]], now: float) -> None:
    keys = [
        policy.key(policy.rank(False, arrived, cached, number, 0), priority, now - arrived, counter)
        for number, (priority, arrived, cached, counter) in enumerate(requests)
    ]
    assert len(set(keys)) == len(keys)
    for (priority, arrived, _, counter), key in zip(requests, keys, strict=True):
        assert key[0] == policy.level(priority, now - arrived)
        assert key[1] == 0
        assert key[2] == (-1 if key[0] < 0 else counter // policy.FAIR_BUCKET)


# --- the door and the clock -------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_before_it_looks_at_anything_else() -> None:
    loop = Loop(n_parallel=1, queue=QueueBounds(max_requests=2))
    for number in range(2):
        loop.add(f"r{number}", own(number))
    loop.now += 7
    with pytest.raises(QueueFullError, match="2 requests wait, and no more than 2 may; try again in 7 s") as caught:
        loop.add("r0", ())  # an empty prompt and an id in use, but nobody looks
    assert caught.value.retry_after == pytest.approx(7)
    assert caught.value.code == "queue_full"
    assert loop.scheduler.counters.refusals == {"queue_full": 1}
    loop.step()
    loop.add("next", own(3))


def test_tokens_in_the_queue_are_bounded_but_one_request_may_always_wait() -> None:
    loop = Loop(queue=QueueBounds(max_tokens=20))
    loop.add("long", own(0, 30))
    with pytest.raises(QueueFullError, match="30 tokens wait, and no more than 20 may"):
        loop.add("short", own(1, 2))
    with pytest.raises(OptionError, match="max_tokens is -1; give at least 0"):
        QueueBounds(max_tokens=-1)


def test_a_deadline_ends_a_running_request_and_a_queue_timeout_only_a_waiting_one() -> None:
    loop = Loop(n_parallel=1)
    loop.add("runs", own(0), max_tokens=50, deadline=103.0, queue_timeout=1.0)
    loop.add("waits", own(1), queue_timeout=2.0)
    loop.step()
    loop.now = 102.5
    (event,) = [e for e in loop.step() if e.error]
    assert (event.request_id, type(event.error)) == ("waits", QueueTimeoutError)
    loop.now = 103.0
    (event,) = loop.step()
    assert (event.request_id, type(event.error)) == ("runs", DeadlineError)
    assert not loop.scheduler.has_work
    assert loop.scheduler.counters.refusals == {"queue_timeout": 1, "deadline_exceeded": 1}


def test_the_times_of_requests_that_have_ended_are_not_kept_until_they_are_over() -> None:
    loop = Loop()
    loop.add("stays", own(0), max_tokens=None, deadline=1e6)
    for number in range(150):
        loop.add("short", own(1), max_tokens=1, deadline=1e6, queue_timeout=1e5)
        while len(loop.ended) <= number:
            loop.step()
    kept = loop.scheduler._timeouts._heap
    assert len(kept) < 100
    assert "stays" in {entry[2] for entry in kept}


# --- room -------------------------------------------------------------------------------------------------------------


def test_answers_are_expected_to_be_as_long_as_those_seen() -> None:
    lengths = OutputLengths()
    assert lengths.expected("a", 1) == 256
    for _ in range(50):
        lengths.see("a", 1, 20)
    assert 15 <= lengths.expected("a", 1) <= 30
    assert lengths.expected("b", 1) == lengths.expected("a", 1)
    assert left(20.5, 0, 1000) == 20
    assert left(20.5, 0, 8) == 8
    assert left(20.5, 100, 1000) == 50, "one that outgrew it goes on for half as long again"
    assert left(1.0, 1, 1000) == 1


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=6))
def test_the_peak_is_that_of_growing_together(futures: list[tuple[int, int]]) -> None:
    futures.sort()
    peak = 0
    for time in range(32):
        taken = sum(min(time, left) if left > time or time == 0 else -own for left, own in futures)
        growing = sum(min(time, left) if left >= time else -own for left, own in futures)
        peak = max(peak, taken, growing)
    assert policy.peak_tokens(futures) == peak


def test_without_a_known_end_admission_counts_what_is_expected() -> None:
    stop = frozenset({99})
    loop = Loop(pages=30)
    for number in range(4):
        loop.add(f"r{number}", own(number), max_tokens=80, stop_token_ids=stop)
    loop.step()
    assert loop.scheduler.num_running == 1, "80 tokens of each are 21 pages"
    loop.drain()
    assert loop.scheduler.counters.preemptions == 0
    assert loop.scheduler.num_running == 0


# --- giving way -------------------------------------------------------------------------------------------------------


def test_the_cheapest_of_the_lowest_class_gives_its_place() -> None:
    loop = Loop(n_parallel=3)
    loop.add("normal", own(0, 9), max_tokens=30)
    loop.add("dear", own(1, 60), max_tokens=30, priority=Priority.LOW)
    loop.add("cheap", own(2, 8), max_tokens=30, priority=Priority.LOW)
    loop.step()
    loop.add("high", own(3), priority=Priority.HIGH)
    loop.step()
    assert loop.scheduler.num_running == 3
    assert "high" in loop.begun
    loop.drain()
    assert loop.scheduler.counters.preemptions == 1
    assert loop.scheduler.counters.recomputed_tokens <= 12
    assert loop.ended.index("cheap") > loop.ended.index("dear")


def test_nobody_gives_way_more_often_than_the_bound() -> None:
    loop = Loop(n_parallel=1)
    loop.add("victim", own(0), max_tokens=60, priority=Priority.LOW)
    loop.step()
    for number in range(10):
        loop.add(f"high{number}", own(1 + number), max_tokens=3, priority=Priority.HIGH)
        for _ in range(5):
            loop.step()
    loop.drain()
    assert loop.scheduler.counters.preemptions == policy.MAX_PREEMPTIONS


def test_cache_modes() -> None:
    loop = Loop()
    for number, mode in enumerate((CacheMode.READ, CacheMode.OFF, CacheMode.READ_WRITE, CacheMode.OFF, CacheMode.READ)):
        loop.add(f"r{number}", own(0, 21), cache=mode)
        loop.drain()
    assert [plan.prompt_tokens for plan in loop.plans if plan.prompt_tokens] == [21, 21, 21, 21, 1]


def test_the_beginning_may_be_shared_and_the_rest_private() -> None:
    loop = Loop(n_parallel=1)
    system, secret = own(0, 16), own(1, 16)
    for name, salt, salt_from in (("a", "x", 16), ("b", "y", 16), ("c", "y", 16), ("d", "z", 0), ("e", "", 0)):
        loop.add(name, system + secret, salt=salt, salt_from=salt_from)
    computed = {}
    while loop.scheduler.has_work:
        loop.step()
        computed[loop.plans[-1].sequences[0].sequence] = sum(plan.prompt_tokens for plan in loop.plans)
    assert [b - a for a, b in zip([0, *computed.values()], computed.values(), strict=False)] == [32, 16, 1, 32, 16]


def test_prompts_that_come_together_wait_for_what_they_may_share() -> None:
    loop = Loop(n_batch=8)
    system = own(0, 24)
    for number in range(4):
        loop.add(f"r{number}", (*system, *own(number, 4)), salt=f"s{number}", salt_from=24)
    loop.drain()
    assert sum(plan.prompt_tokens for plan in loop.plans) == 24 + 4 * 4


# --- chunks -----------------------------------------------------------------------------------------------------------


def test_prompts_take_no_more_than_their_cap_beside_streams() -> None:
    loop = Loop(n_batch=32, n_prefill=6)
    loop.add("stream", own(0), max_tokens=30)
    loop.step()
    loop.add("long", own(1, 60))
    loop.drain()
    beside = [plan.prompt_tokens for plan in loop.plans if len(plan.sequences) > 1]
    assert max(beside) == 6
    loop.add("by itself", own(2, 60))
    loop.step()
    assert loop.plans[-1].prompt_tokens == 32


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 100))
def test_the_budget_is_used_and_everybody_gets_some(wanted: list[int], budget: int) -> None:
    given_out = policy.shares(wanted, budget)
    assert sum(given_out) == min(sum(wanted), budget)
    assert all(0 <= share <= want for share, want in zip(given_out, wanted, strict=True))
    if len(wanted) > 1 and budget > 1 and wanted[0] >= budget:
        assert given_out[0] < budget
    fits = sum(want < budget for want in wanted) == len(wanted)
    assert given_out[0] == min(wanted[0], budget) or not fits
