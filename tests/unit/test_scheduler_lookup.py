"""Speculation: guesses from the context, how they are judged, and that they change no token."""

from __future__ import annotations

import pytest

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.errors import OptionError, StepError
from plait.scheduler.limits import Limits
from plait.scheduler.lookup import FIRST_LENGTH, FIRST_PAUSE, Lookup, rows_each, verified
from plait.scheduler.plan import RowResult, StepPlan
from plait.scheduler.scheduler import Scheduler
from plait.types import EngineRequest, SamplingParams
from support.toy_model import ToyRunner, alone


def test_a_guess_is_what_followed_the_last_time() -> None:
    lookup = Lookup()
    assert lookup.guess([1, 2, 3, 4, 5, 6, 7], 9) == ()
    assert lookup.guess([1, 2, 3, 4, 5, 6, 7, 2, 3, 4], 9) == (5, 6, 7, 2)
    assert lookup.guess([1, 2, 3, 4, 5, 6, 7, 2, 3, 4], 2) == (5, 6)
    assert lookup.guess([1, 2, 3, 4, 5, 6, 7, 2, 3, 4, 8, 2, 3, 4], 1) == (8,), "the last time counts"


def test_a_loop_is_guessed_beyond_its_end() -> None:
    assert Lookup().guess([7, 7, 7, 7], 9) == (7,) * FIRST_LENGTH
    assert Lookup().guess([1, 2, 1, 2, 1], 9) == (2, 1, 2, 1)


def test_guesses_grow_while_they_are_right_and_pause_when_they_are_useless() -> None:
    lookup, tokens = Lookup(), [7] * 4
    lookup.judge(4, 4, 4)
    assert len(lookup.guess(tokens, 99)) == FIRST_LENGTH + 2
    lookup.judge(6, 1, 4)
    assert len(lookup.guess(tokens, 99)) == 3
    lookup.judge(3, 0, 4)
    assert len(lookup.guess(tokens, 99)) == 1
    lookup.judge(1, 0, 4)
    assert lookup.guess(tokens, 99) == ()
    assert lookup.guess([7] * (4 + FIRST_PAUSE), 99) == (7,)


def test_draws_count_as_far_as_the_guesses_were_right() -> None:
    rows = [RowResult((token,)) for token in (1, 2, 3)]
    assert verified((1, 2), rows).tokens == (1, 2, 3)
    assert verified((1, 9), rows).tokens == (1, 2)
    assert verified((9, 2), rows).tokens == (1,)
    error = StepError("no number")
    failed = [rows[0], RowResult((), (), error), rows[2]]
    assert verified((1, 2), failed) == RowResult((1,), (), error)
    assert verified((9, 2), failed) == RowResult((1,)), "what a wrong guess led to is nobody's error"


def test_guesses_give_way_as_the_batch_fills() -> None:
    assert [rows_each(16, n) for n in (0, 1, 4, 8, 9, 16, 99)] == [0, 15, 3, 1, 0, 0, 0]
    limits = Limits(n_batch=4, n_parallel=8, context_length=9, n_draft=8)
    assert [limits.guesses(n) for n in (1, 2, 3)] == [3, 1, 0]
    with pytest.raises(OptionError, match="n_draft is -1"):
        Limits(n_batch=4, n_parallel=8, context_length=9, n_draft=-1)


def repeating(penalties: dict[str, float]) -> EngineRequest:
    for seed in range(0, 1000, 5):
        params = SamplingParams(seed=seed, max_tokens=120, **penalties)  # type: ignore[arg-type]
        request = EngineRequest(request_id="a", prompt=(1, 2, 3, 1, 2, 3), sampling=params)
        if alone(request, 0, 200).end == "length":
            return request
    raise AssertionError("no seed avoids the errors")


@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize("penalties", [{}, {"repeat_penalty": 1.1, "repeat_last_n": 5}, {"dry_multiplier": 0.5}])
def test_a_text_that_repeats_itself_takes_fewer_steps_and_has_the_same_tokens(
    in_flight: int, penalties: dict[str, float]
) -> None:
    steps = {}
    for n_draft in (0, 8):
        config = CacheConfig(4, (60,))
        limits = Limits(n_batch=64, n_parallel=4, context_length=200, n_draft=n_draft)
        scheduler, runner = Scheduler(KVCache(config), limits), ToyRunner(config)
        request = repeating(penalties)
        scheduler.add(request)
        flying: list[StepPlan] = []
        tokens: list[int] = []
        steps[n_draft] = 0
        while scheduler.has_work:
            plan = scheduler.schedule()
            if plan is not None:
                flying.append(plan)
                steps[n_draft] += 1
            if flying and (plan is None or len(flying) > in_flight):
                events = scheduler.commit(flying[0], runner.run(flying.pop(0)))
                tokens += [token for event in events for token in event.tokens]
            scheduler.check()
        assert tuple(tokens) == alone(request, 0, 200).tokens
        assert scheduler.counters.accepted_tokens == 120 - steps[n_draft]
    assert steps[8] < steps[0] * (0.5 if in_flight == 0 else 0.7)
