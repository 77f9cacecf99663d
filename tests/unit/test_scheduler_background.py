"""The background class: it takes what nobody wants, is held back by nothing else, and gives way."""

from __future__ import annotations

from plait.scheduler import policy
from plait.types import Priority
from support.scheduler_loop import Loop, own


def test_background_takes_only_what_nobody_wants_and_gives_way_first() -> None:
    loop = Loop(n_parallel=2)
    loop.add("work", own(0), max_tokens=40)
    for number in range(3):
        loop.add(f"batch{number}", own(1 + number), max_tokens=30, priority=Priority.BACKGROUND)
    loop.step()
    assert loop.begun == ["work", "batch0"]
    loop.add("more", own(9), max_tokens=4, priority=Priority.LOW)
    loop.step()
    assert loop.begun == ["work", "batch0", "more"], "batch0 gave its place"
    loop.drain()
    assert loop.scheduler.counters.preemptions == 1
    assert loop.ended.index("more") == 0


def test_one_that_is_not_ready_does_not_hold_back_background_work() -> None:
    compiled = ["batch"]
    loop = Loop(n_parallel=1, ready=lambda request: request.request_id in compiled)
    loop.add("grammar", own(0))
    loop.add("batch", own(1), max_tokens=30, priority=Priority.BACKGROUND)
    loop.step()
    assert loop.begun == ["batch"]
    compiled.append("grammar")
    loop.step()
    assert loop.begun == ["batch", "grammar"], "it gave its place as soon as that was wanted"
    loop.drain()
    assert loop.ended == ["grammar", "batch"]


def test_one_that_waits_for_a_prefix_does_not_hold_back_background_work() -> None:
    loop = Loop(n_parallel=3, n_batch=16)
    loop.add("first", own(0, 60))
    loop.add("second", own(0, 60))
    loop.add("batch", own(1), max_tokens=30, priority=Priority.BACKGROUND)
    loop.step()
    assert loop.begun == ["batch"]
    loop.drain()
    assert loop.scheduler.counters.preemptions == 0


def test_background_work_that_gave_way_as_often_as_it_must_is_lent_no_place() -> None:
    """It would not give it back: an urgent request would wait for all of its answer."""
    compiled = ["batch"]
    loop = Loop(n_parallel=1, ready=lambda request: request.request_id in compiled)
    loop.add("batch", own(9), max_tokens=120, priority=Priority.BACKGROUND)
    loop.step()
    for number in range(policy.MAX_PREEMPTIONS + 2):
        name = f"grammar{number}"
        loop.add(name, own(number), max_tokens=2)
        loop.step()
        loop.step()
        compiled.append(name)
        steps = 0
        while name not in loop.ended:
            loop.step()
            steps += 1
        assert steps <= 6
    assert loop.scheduler.counters.preemptions == policy.MAX_PREEMPTIONS
    loop.drain()
    assert loop.ended[-1] == "batch"


def test_background_work_that_waits_for_a_prefix_does_not_hold_back_the_rest_of_it() -> None:
    loop = Loop(n_parallel=4, n_batch=16)
    for number in range(6):
        loop.add(f"alike{number}", (*own(0, 60), number), priority=Priority.BACKGROUND)
    loop.add("other", own(1), priority=Priority.BACKGROUND)
    loop.step()
    assert "other" in loop.begun


def test_background_work_leaves_the_places_that_are_wanted_soon() -> None:
    """One place can be taken back for each step, so no more is lent than that."""
    loop = Loop(n_parallel=4, n_batch=64)
    for number in range(4):
        loop.add(f"r{number}", own(0, 60), max_tokens=8)
    for number in range(4):
        loop.add(f"batch{number}", own(1 + number), max_tokens=30, priority=Priority.BACKGROUND)
    loop.step()
    assert loop.scheduler.num_running == 2
    loop.step()
    loop.step()
    assert set(loop.begun) >= {"r0", "r1", "r2", "r3"}
    assert loop.scheduler.counters.preemptions == 1
    loop.drain()
