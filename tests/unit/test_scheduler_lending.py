"""Who waits for a prompt that another computes lends that one its class, and takes it back."""

from __future__ import annotations

import pytest

from plait.scheduler import policy
from plait.types import Priority
from support.scheduler_loop import Loop, own


def test_who_waits_for_a_prompt_lends_it_its_urgency() -> None:
    loop = Loop(n_parallel=3, n_batch=8)
    loop.add("other", own(1, 60), priority=Priority.NORMAL)
    loop.add("first", own(0, 60), priority=Priority.LOW)
    loop.step()
    loop.add("second", own(0, 60), priority=Priority.HIGH)
    loop.drain()
    assert loop.begun.index("first") < loop.begun.index("other")
    assert loop.begun.index("second") < loop.begun.index("other")


@pytest.mark.parametrize("how", ["aborted", "late"])
def test_what_was_lent_is_given_back_when_who_waits_goes_away(how: str) -> None:
    loop = Loop(n_parallel=3, n_batch=8)
    loop.add("other", own(1, 60), priority=Priority.NORMAL)
    loop.add("first", own(0, 60), priority=Priority.LOW)
    loop.step()
    loop.add("second", own(0, 60), priority=Priority.HIGH, deadline=loop.now + 5)
    loop.add("third", own(0, 60), priority=Priority.LOW)
    loop.step()
    loop.step()
    assert loop.owners(-1)[0] == "first", "the second waits for it"
    if how == "aborted":
        loop.scheduler.abort("second")
    else:
        loop.now += 5
        del loop.asked["second"]
    loop.step()
    assert loop.owners(-1)[0] == "other", "the third waits for it, too, but lends it no more than its own class"
    loop.drain()
    assert loop.begun.index("other") < loop.begun.index("first")


def test_what_was_lent_is_given_back_when_the_pages_have_come_and_most_of_the_prompt_is_left() -> None:
    loop = Loop(n_parallel=3, n_batch=8)
    loop.add("other", own(1, 100), priority=Priority.NORMAL)
    loop.add("first", (*own(0, 24), *own(5, 76)), priority=Priority.LOW)
    loop.step()
    loop.add("second", (*own(0, 24), *own(6, 6)), priority=Priority.HIGH)
    while "second" not in loop.begun:
        loop.step()
    assert loop.owners(-1)[0] == "second"
    loop.drain()
    assert loop.begun == ["second", "other", "first"]


def test_of_two_that_lent_their_class_one_goes_away_and_the_other_still_lends() -> None:
    loop = Loop(n_parallel=3, n_batch=8)
    loop.add("other", own(1, 60), priority=Priority.NORMAL)
    loop.add("first", own(0, 60), priority=Priority.LOW)
    loop.step()
    for name in ("second", "third"):
        loop.add(name, own(0, 60), priority=Priority.HIGH)
    loop.step()
    loop.scheduler.abort("second")
    loop.drain()
    assert loop.begun.index("third") < loop.begun.index("other")


def test_a_class_that_was_lent_protects_a_place_only_as_long_as_who_lent_it_waits() -> None:
    loop = Loop(n_parallel=1, n_batch=8)
    loop.add("first", own(0, 60), priority=Priority.LOW)
    loop.step()
    loop.add("second", own(0, 60), priority=Priority.HIGH)
    loop.step()
    loop.step()
    loop.scheduler.abort("second")
    loop.add("normal", own(1))
    loop.step()
    assert loop.scheduler.counters.preemptions == 1
    loop.drain()
    assert loop.ended == ["normal", "first"]


def test_what_was_lent_is_given_back_once_the_prompt_is_computed() -> None:
    loop = Loop(n_parallel=2, n_batch=8)
    loop.add("first", own(0, 60), priority=Priority.BACKGROUND, max_tokens=100)
    loop.step()
    loop.add("second", own(0, 60), priority=Priority.HIGH, max_tokens=100)
    while "second" not in loop.begun:
        loop.step()
    assert loop.scheduler.counters.preemptions == 0
    loop.add("third", own(1), priority=Priority.HIGH, max_tokens=2)
    loop.step()
    assert loop.scheduler.counters.preemptions == 1, "it kept the class of who had waited for its prompt"
    while "third" not in loop.ended:
        loop.step()
    assert "second" not in loop.ended
    loop.drain()
    assert loop.scheduler.counters.preemptions == 1


def test_who_waits_lends_the_class_to_which_it_has_risen() -> None:
    loop = Loop(n_parallel=3, n_batch=8)
    loop.add("other", own(1, 60), priority=Priority.NORMAL)
    loop.add("first", own(0, 60), priority=Priority.LOW)
    loop.step()
    loop.add("second", own(0, 60), priority=Priority.NORMAL)
    loop.now += policy.AGEING_S
    loop.drain()
    assert loop.begun.index("first") < loop.begun.index("other")
