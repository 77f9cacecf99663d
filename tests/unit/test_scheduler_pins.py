"""Sessions that stay in memory for a while: how long, how much of it, and for whom they make room."""

from __future__ import annotations

from test_scheduler_order import Loop, own

from plait.scheduler.pins import PINNED_SHARE, PinStats
from plait.types import CacheMode, Priority


def pins(loop: Loop) -> int:
    return len(loop.scheduler._sequences.pins)


def held(loop: Loop) -> int:
    return loop.scheduler.cache_stats().held[0]


def say(loop: Loop, name: str, prompt: tuple[int, ...], **fields: object) -> int:
    """One request from begin to end; how many tokens of its prompt were cached."""
    loop.add(name, prompt, **fields)
    return next(event.cached_tokens for event in loop.drain() if event.final)


def found(computed: int) -> int:
    """Of so many computed tokens, those that the cache gives: all but a single one in a page of four."""
    return computed - (computed % 4 == 1)


def crowd(loop: Loop, first: int, count: int = 30) -> None:
    """Other traffic, more than there is room to cache."""
    for number in range(first, first + count):
        say(loop, f"crowd {number}", own(number, 20))


def test_a_pinned_session_outlives_other_traffic_until_its_time_is_over() -> None:
    loop = Loop(pages=60)
    say(loop, "pinned", own(0, 30), pin=10.0)
    say(loop, "not", own(1, 30))
    crowd(loop, 100)
    answered = (*own(0, 30), *loop.tokens["pinned"])
    assert say(loop, "again", (*own(1, 30), 1)) == 0
    assert say(loop, "next", (*answered, 1, 2)) == found(len(answered) - 1) > 30
    loop.now += 10.0
    assert pins(loop) == 1
    assert loop.scheduler.pin_stats().pages == held(loop) > 7
    crowd(loop, 200)
    assert loop.scheduler.pin_stats() == PinStats(pages=0, expired=1, dropped=0)
    assert pins(loop) == 0
    assert held(loop) == 0
    assert say(loop, "late", (*answered, 1, 2)) == 0


def test_pins_hold_no_more_than_their_share_and_the_first_to_end_goes() -> None:
    loop = Loop(pages=40)
    for number, pin in enumerate((30.0, 10.0, 20.0)):
        say(loop, f"r{number}", own(number, 30), pin=pin)
    assert held(loop) <= PINNED_SHARE * 40
    assert pins(loop) == 2
    assert (loop.scheduler.pin_stats().expired, loop.scheduler.pin_stats().dropped) == (0, 1)
    crowd(loop, 100)
    assert [say(loop, f"again {n}", own(n, 30)) > 0 for n in range(3)] == [True, False, True]


def test_a_path_that_exceeds_the_share_by_itself_is_not_pinned() -> None:
    loop = Loop(pages=40)
    say(loop, "small", own(1, 20), pin=5.0)
    say(loop, "large", own(0, 120), pin=9.0)
    assert pins(loop) == 0
    assert held(loop) == 0
    assert loop.scheduler._sequences.pins.dropped == 2


def test_a_turn_takes_the_place_of_the_one_before_it() -> None:
    loop = Loop(pages=40)
    prompt = own(0, 30)
    for turn in range(8):
        say(loop, f"turn {turn}", prompt, pin=50.0)
        prompt = (*prompt, *loop.tokens[f"turn {turn}"])
    assert pins(loop) == 1
    assert held(loop) == -(-found(len(prompt) - 1) // 4)
    say(loop, "shorter", prompt, pin=20.0)
    assert pins(loop) == 2


def test_pins_make_room_before_anybody_gives_way() -> None:
    loop = Loop(pages=40)
    say(loop, "pinned", own(0, 70), pin=100.0)
    loop.add("long", own(1, 60), max_tokens=60)
    loop.add("other", own(2, 20), max_tokens=4)
    loop.drain()
    assert pins(loop) == 0
    assert loop.scheduler.counters.preemptions == 0


def test_a_request_that_waits_is_worth_a_pin_and_a_background_one_is_not() -> None:
    for priority, left in ((Priority.NORMAL, 0), (Priority.BACKGROUND, 1)):
        loop = Loop(pages=40)
        say(loop, "pinned", own(0, 70), pin=100.0)
        loop.add("runs", own(1, 30), max_tokens=12, priority=priority)
        loop.step()
        loop.add("waits", own(2, 30), max_tokens=12, priority=priority)
        loop.step()
        assert loop.scheduler.num_running == 2 - left
        assert pins(loop) == left
        loop.drain()


def test_only_what_may_be_left_in_the_cache_is_pinned() -> None:
    loop = Loop()
    say(loop, "read", own(0, 30), pin=5.0, cache=CacheMode.READ)
    say(loop, "off", own(1, 30), pin=5.0, cache=CacheMode.OFF)
    assert pins(loop) == 0


def test_an_aborted_turn_is_pinned_as_far_as_it_came_and_a_failed_one_is_not() -> None:
    loop = Loop(n_batch=16)
    loop.add("aborted", own(0, 40), pin=50.0)
    loop.step()
    loop.scheduler.abort("aborted")
    assert pins(loop) == 1
    assert held(loop) == 4
    loop.add("late", own(1, 40), pin=50.0, deadline=loop.now + 1)
    loop.step()
    loop.now += 2
    loop.step()
    assert pins(loop) == 1


def test_pins_are_private_to_their_salt() -> None:
    loop = Loop(pages=60)
    say(loop, "mine", own(0, 30), pin=90.0, salt="me")
    crowd(loop, 100)
    assert say(loop, "theirs", own(0, 30), salt="you") == 0
    assert say(loop, "again", own(0, 30), salt="me") == found(29)
