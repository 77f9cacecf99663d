"""Requests that come together with a common beginning: one computes it, the others wait for its pages."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_scheduler_rules import Loop, ends, prompt_of, request

from plait.types import FinishReason, Priority
from support import scheduler_loop as order
from support.toy_model import POISON


def test_equal_prompts_that_arrive_together_are_computed_once() -> None:
    loop = Loop(n_batch=16)
    for i in range(5):
        loop.scheduler.add(request(f"r{i}", prompt_of(30)))
    events = loop.drain()
    assert loop.prompt_tokens == 30 + 4 * 2, "28 tokens are whole pages"
    assert {e.request_id: e.cached_tokens for e in events if e.final} == {
        "r0": 0, "r1": 28, "r2": 28, "r3": 28, "r4": 28,
    }  # fmt: skip


def test_of_a_prompt_that_is_waited_for_the_ragged_end_is_shared_too() -> None:
    loop = Loop(n_batch=64)
    for i in range(5):
        loop.scheduler.add(request(f"r{i}", prompt_of(31)))
    loop.drain()
    assert loop.prompt_tokens == 31 + 4


def test_equal_prompts_of_which_one_parts_late_share_up_to_there() -> None:
    loop = Loop(n_batch=64)
    for i in range(3):
        loop.scheduler.add(request(f"r{i}", (*prompt_of(22), i, 3, 3, 3)))
    loop.drain()
    assert loop.prompt_tokens == 26 + 2 * 4


def test_a_request_that_waits_for_a_prefix_does_not_hold_up_the_next() -> None:
    loop = Loop(n_batch=16)
    loop.scheduler.add(request("long", prompt_of(40)))
    loop.scheduler.add(request("same", prompt_of(40)))
    loop.scheduler.add(request("other", (4, 4, 4, 4)))
    events = [event for _ in range(3) for event in loop.step()]
    assert {e.request_id for e in events} == {"long", "other"}
    assert loop.shapes()[0] == [12, 4], "beside the beginning of the long prompt"


def test_a_short_common_beginning_is_not_waited_for() -> None:
    loop = Loop(n_batch=64)
    loop.scheduler.add(request("a", (*prompt_of(4), *(1,) * 20)))
    loop.scheduler.add(request("b", (*prompt_of(4), *(2,) * 20)))
    loop.step()
    assert loop.shapes() == [[24, 24]]


def test_prompts_under_different_salts_share_nothing() -> None:
    loop = Loop()
    loop.scheduler.add(request("a", prompt_of(20), salt="x"))
    loop.scheduler.add(request("b", prompt_of(20), salt="y"))
    loop.drain()
    assert loop.prompt_tokens == 40


def test_whoever_waits_takes_over_when_the_first_is_aborted() -> None:
    loop = Loop(n_batch=8)
    loop.scheduler.add(request("a", prompt_of(30)))
    loop.scheduler.add(request("b", prompt_of(30)))
    loop.step()
    loop.scheduler.abort("a")
    loop.drain()
    assert loop.prompt_tokens == 30, "what the first had computed is kept"


def test_a_prompt_whose_first_gives_way_is_still_computed_once() -> None:
    loop = Loop(n_batch=8, n_parallel=1)
    for name in ("first", "second"):
        loop.scheduler.add(replace(request(name, prompt_of(31)), priority=Priority.LOW))
    loop.step()
    loop.scheduler.add(replace(request("urgent", (5, 4, 3)), priority=Priority.HIGH))
    loop.drain()
    assert loop.scheduler.counters.preemptions == 1
    assert loop.prompt_tokens == 31 + 3 + 1
    assert loop.scheduler.counters.recomputed_tokens == 0


def test_whoever_waits_takes_over_when_the_first_fails() -> None:
    loop = Loop(n_batch=8)
    loop.scheduler.add(request("bad", (*prompt_of(16), POISON, *prompt_of(13))))
    for name in ("a", "b"):
        loop.scheduler.add(request(name, prompt_of(30)))
    events = loop.drain()
    assert {e.request_id: e.error is not None for e in events if e.final} == {"bad": True, "a": False, "b": False}
    computed = loop.prompt_tokens
    assert computed <= 24 + 30 + 3, "the beginning that the failed one had computed, and then the rest once"


def test_a_chain_of_equal_prompts_is_computed_once_though_each_first_is_aborted() -> None:
    loop = Loop(n_batch=8)
    for name in "abcd":
        loop.scheduler.add(request(name, prompt_of(60)))
    for name in "abc":
        loop.step()
        loop.scheduler.abort(name)
    loop.drain()
    assert loop.prompt_tokens == 60


def test_a_prompt_that_is_waited_for_may_fill_the_memory() -> None:
    """Its ragged end is shared, so its next token would go to a copy, and there is no page for one."""
    loop = Loop(pages=10)
    for name in "ab":
        loop.scheduler.add(request(name, prompt_of(38), max_tokens=2))
    events = loop.drain()
    assert ends(events) == {("a", 0): FinishReason.LENGTH, ("b", 0): FinishReason.LENGTH}
    assert loop.prompt_tokens <= 38 + 2, "no more than what the page that was missing held"


@pytest.mark.parametrize("in_flight", [False, True], ids=["between steps", "with a step in flight"])
@pytest.mark.parametrize(
    ("classes", "heir"),
    [
        ((Priority.NORMAL, Priority.NORMAL, Priority.NORMAL), "r1"),
        ((Priority.HIGH, Priority.LOW, Priority.NORMAL), "r2"),
        ((Priority.LOW, Priority.BACKGROUND, Priority.LOW), "r2"),
        ((Priority.NORMAL, Priority.BACKGROUND, Priority.BACKGROUND), "r1"),
        ((Priority.BACKGROUND, Priority.BACKGROUND, Priority.HIGH), "r2"),
    ],
)
def test_the_most_urgent_that_waits_takes_over_in_the_next_step(
    classes: tuple[Priority, ...], heir: str, in_flight: bool
) -> None:
    loop = Loop(n_batch=8, n_parallel=2)
    scheduler = loop.scheduler
    scheduler.add(replace(request("r0", prompt_of(60)), priority=classes[0]))
    loop.step()
    for number in (1, 2):
        scheduler.add(replace(request(f"r{number}", prompt_of(60)), priority=classes[number]))
    loop.step()
    plan = scheduler.schedule() if in_flight else None
    scheduler.abort("r0")
    following = scheduler.schedule()
    assert following is not None
    assert [scheduler.owner(p.sequence)[0] for p in following.sequences] == [heir]
    assert len(following.sequences[0].tokens) == 8, "the whole budget"
    for one in [plan, following] if plan else [following]:
        scheduler.commit(one, loop.runner.run(one))
        scheduler.check()
    events = loop.drain()
    assert {e.request_id for e in events if e.final} == {"r1", "r2"}
    assert loop.prompt_tokens <= 60 + 3, "the other one waits for the heir"


def test_who_is_not_ready_is_passed_over_when_a_prompt_is_taken_over() -> None:
    ready: set[str] = set()
    loop = order.Loop(n_batch=8, n_parallel=2, ready=lambda asked: asked.request_id in ready | {"r0", "r2"})
    for number, level in enumerate((Priority.NORMAL, Priority.NORMAL, Priority.BACKGROUND)):
        loop.add(f"r{number}", order.own(0, 60), priority=level)
    loop.step()
    loop.scheduler.abort("r0")
    loop.step()
    assert loop.owners(-1) == ["r2"]
    ready.add("r1")
    loop.drain()
