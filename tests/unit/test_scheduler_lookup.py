"""Speculation: guesses from the context, how they are judged, and that they change no token."""

from __future__ import annotations

import pytest

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.errors import OptionError, StepError
from plait.scheduler.limits import Limits
from plait.scheduler.lookup import (
    FIRST_LENGTH,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MARGIN,
    Lookup,
    least_odds,
    rows_each,
    verified,
)
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


def test_a_guess_ends_where_a_row_is_not_worth_its_time() -> None:
    """With a row at a sixth of a step, one sequence gains by a token of one in seven, sixteen by one of 73%."""
    assert least_odds(1 / 6, 1) == pytest.approx(MARGIN / 7)
    assert least_odds(1 / 6, 16) == pytest.approx(MARGIN * 16 / 22)
    lookup, tokens = Lookup(), [7] * 20
    assert len(lookup.guess(tokens, 99, least_odds(1 / 6, 1))) == FIRST_LENGTH
    assert len(lookup.guess(tokens, 99, least_odds(1 / 6, 4))) == 1, "0.7 * 0.7 is less than a half"
    for _ in range(30):
        lookup.judge(8, 8, 20)
    assert len(lookup.guess(tokens, 40, least_odds(1 / 6, 4))) == 40, "always right"
    assert lookup.guess(tokens, 99, 1.0) == ()


def test_whoever_does_not_guess_any_more_tries_once_in_a_while() -> None:
    lookup, odds = Lookup(), 0.9
    assert len(lookup.guess([7] * 20, 99, odds)) == 1
    lookup.judge(1, 0, 21)
    assert lookup.guess([7] * 21, 99, odds) == ()
    assert lookup.guess([7] * (19 + LONGEST_PAUSE), 99, odds) == ()
    assert len(lookup.guess([7] * (20 + LONGEST_PAUSE), 99, odds)) == 1


def test_a_measured_row_bounds_guesses_instead_of_a_number_of_tokens() -> None:
    limits = Limits(n_batch=64, n_parallel=8, context_length=99, n_draft=16, row_share=0.1)
    assert [limits.guesses(running) for running in (1, 4, 8, 32, 64)] == [16, 15, 7, 1, 0]
    assert Limits(n_batch=64, n_parallel=8, context_length=99, n_draft=16, row_share=5.0).guesses(1) == 0
    with pytest.raises(OptionError, match="row_share"):
        Limits(n_batch=64, n_parallel=8, context_length=99, row_share=-1.0)


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
