"""What the scheduler promises, rule by rule."""

from __future__ import annotations

import pytest

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.errors import OptionError, PromptTooLongError, RequestError
from plait.scheduler import policy
from plait.scheduler.limits import Limits
from plait.scheduler.plan import FromStep, StepPlan, StepResult
from plait.scheduler.request import history_tail
from plait.scheduler.scheduler import Scheduler
from plait.types import EngineRequest, FinishReason, Grammar, SamplerStage, SamplingParams, TokenEvent
from support.toy_model import POISON, STOP, ToyRunner, alone


class Loop:
    """A scheduler with the toy model, stepped by hand."""

    def __init__(
        self, *, pages: int = 100, page_size: int = 4, n_batch: int = 64, n_parallel: int = 8, context: int = 200
    ) -> None:
        config = CacheConfig(page_size, (pages + 1,))
        self.cache = KVCache(config)
        limits = Limits(n_batch=n_batch, n_parallel=n_parallel, context_length=context)
        self.scheduler = Scheduler(self.cache, limits)
        self.runner = ToyRunner(config)
        self.plans: list[StepPlan] = []

    def step(self) -> list[TokenEvent]:
        plan = self.scheduler.schedule()
        assert plan is not None
        self.plans.append(plan)
        events = self.scheduler.commit(plan, self.runner.run(plan))
        self.scheduler.check()
        return events

    def drain(self) -> list[TokenEvent]:
        events: list[TokenEvent] = []
        while self.scheduler.has_work:
            events += self.step()
        return events

    def shapes(self) -> list[list[int]]:
        """Rows of each sequence, step by step."""
        return [[len(s.tokens) for s in plan.sequences] for plan in self.plans]

    @property
    def prompt_tokens(self) -> int:
        return sum(plan.prompt_tokens for plan in self.plans)


def request(
    name: str, prompt: tuple[int, ...], *, stop: bool = False, salt: str = "", **params: object
) -> EngineRequest:
    """With a seed for which no sample runs into an error of the toy model, as far as the prompt lets it."""
    stop_ids = frozenset({STOP}) if stop else frozenset()
    for seed in range(100):
        sampling = SamplingParams(seed=seed, **{"max_tokens": 4} | params)  # type: ignore[arg-type]
        made = EngineRequest(request_id=name, prompt=prompt, sampling=sampling, stop_token_ids=stop_ids, salt=salt)
        if POISON in prompt or all(alone(made, i, 200).end != "error" for i in range(sampling.n)):
            return made
    raise AssertionError("no seed avoids the errors")


def unending(name: str, prompt: tuple[int, ...], tokens: int, **fields: object) -> EngineRequest:
    """A request that a stop id might end, as far as the scheduler knows, but none does before `tokens`."""
    for seed in range(1000):
        sampling = SamplingParams(seed=seed, max_tokens=tokens)
        made = EngineRequest(
            request_id=name,
            prompt=prompt,
            sampling=sampling,
            stop_token_ids=frozenset({STOP}),
            **fields,  # type: ignore[arg-type]
        )
        if alone(made, 0, 200).end == "length":
            return made
    raise AssertionError("no seed goes on for so long")


def ends(events: list[TokenEvent]) -> dict[tuple[str, int], object]:
    return {(e.request_id, e.index): e.finish_reason or type(e.error) for e in events if e.final}


def prompt_of(length: int) -> tuple[int, ...]:
    return tuple(1 + (i * i) % 4 for i in range(length))


# --- the door -----------------------------------------------------------------------------------------------------


def test_an_empty_prompt_and_a_known_id_are_refused() -> None:
    scheduler = Loop().scheduler
    with pytest.raises(RequestError, match="the prompt is empty"):
        scheduler.add(request("a", ()))
    scheduler.add(request("a", (1,)))
    with pytest.raises(RequestError, match="request id 'a' is in use"):
        scheduler.add(request("a", (1,)))


def test_a_prompt_needs_room_for_one_token_more() -> None:
    scheduler = Loop(context=10).scheduler
    scheduler.add(request("fits", prompt_of(9)))
    scheduler.add(request("asks for nothing", prompt_of(10), max_tokens=0))
    with pytest.raises(PromptTooLongError, match=r"10 tokens.*the context is 10; shorten"):
        scheduler.add(request("too long", prompt_of(10)))


def test_a_prompt_that_the_pool_never_holds_is_refused() -> None:
    scheduler = Loop(pages=3, page_size=4, context=100).scheduler
    scheduler.add(request("fits", prompt_of(11)))
    with pytest.raises(PromptTooLongError, match="the KV memory holds 12; shorten the prompt, or give more KV"):
        scheduler.add(request("too long", prompt_of(12)))


@pytest.mark.parametrize("name", ["n_batch", "n_parallel", "context_length"])
def test_limits_below_one_are_refused(name: str) -> None:
    values = {"n_batch": 1, "n_parallel": 1, "context_length": 1, name: 0}
    with pytest.raises(OptionError, match=f"{name} is 0; give at least 1"):
        Limits(**values)


# --- steps --------------------------------------------------------------------------------------------------------


def test_decoding_comes_first_and_prompts_fill_the_rest_of_the_budget() -> None:
    loop = Loop(n_batch=10)
    loop.scheduler.add(request("a", prompt_of(4)))
    loop.step()
    loop.scheduler.add(request("b", (2, *prompt_of(13))))
    loop.scheduler.add(request("c", (3, *prompt_of(5))))
    for _ in range(3):
        loop.step()
    assert loop.shapes() == [[4], [1, 4, 5], [1, 8, 1], [1, 1, 2]]
    assert [plan.prompt_tokens for plan in loop.plans] == [4, 9, 9, 2]


def test_no_more_sequences_than_places_and_no_more_places_than_budget() -> None:
    loop = Loop(n_batch=2, n_parallel=8)
    for i in range(4):
        loop.scheduler.add(request(f"r{i}", (1 + i,)))
    loop.drain()
    assert max(len(plan.sequences) for plan in loop.plans) == 2


def test_requests_are_let_in_in_order_of_arrival() -> None:
    loop = Loop(n_parallel=1)
    for name in "abc":
        loop.scheduler.add(request(name, prompt_of(3)))
    finals = [event.request_id for event in loop.drain() if event.final]
    assert finals == ["a", "b", "c"]


def test_a_plan_in_flight_names_its_tokens() -> None:
    loop = Loop()
    loop.scheduler.add(request("a", prompt_of(4), max_tokens=3))
    first = loop.scheduler.schedule()
    second = loop.scheduler.schedule()
    assert first is not None
    assert second is not None
    assert second.sequences[0].tokens == (FromStep(step=0, output=0),)
    results = [loop.runner.run(first), loop.runner.run(second)]
    loop.scheduler.commit(first, results[0])
    third = loop.scheduler.schedule()
    assert third is not None
    assert third.sequences[0].tokens == (FromStep(step=1, output=0),)
    loop.scheduler.commit(second, results[1])
    assert loop.scheduler.schedule() is None, "the third token is the last, so nothing is left to plan"
    events = loop.scheduler.commit(third, loop.runner.run(third))
    assert ends(events) == {("a", 0): FinishReason.LENGTH}


def test_rows_planned_for_a_sample_that_has_ended_are_dropped_and_its_pages_held_till_then() -> None:
    loop = Loop()
    stopping = next(r for n in range(1, 60) if alone(r := request("a", prompt_of(n), stop=True), 0, 200).tokens == ())
    loop.scheduler.add(stopping)
    first, second = loop.scheduler.schedule(), loop.scheduler.schedule()
    assert first is not None
    assert second is not None
    results = [loop.runner.run(first), loop.runner.run(second)]
    assert ends(loop.scheduler.commit(first, results[0])) == {("a", 0): FinishReason.STOP}
    assert loop.cache.stats().held[0] > 0
    assert loop.scheduler.has_work
    assert loop.scheduler.commit(second, results[1]) == []
    assert loop.cache.stats().held == (0,)
    assert not loop.scheduler.has_work


def test_plans_are_committed_in_order() -> None:
    loop = Loop()
    loop.scheduler.add(request("a", (1,)))
    loop.scheduler.schedule()
    second = loop.scheduler.schedule()
    assert second is not None
    with pytest.raises(AssertionError, match="in order"):
        loop.scheduler.commit(second, StepResult(second.step, (), 0.0))


# --- ends ---------------------------------------------------------------------------------------------------------


def test_a_stop_id_is_not_part_of_the_tokens_and_a_limit_ends_with_length() -> None:
    for length in range(1, 40):
        loop = Loop(context=30)
        asked = request("a", prompt_of(min(length, 29)), stop=True, max_tokens=40 if length % 2 else 6)
        loop.scheduler.add(asked)
        events = loop.drain()
        wanted = alone(asked, 0, 30)
        assert tuple(t for e in events for t in e.tokens) == wanted.tokens
        assert ends(events) == {("a", 0): FinishReason(wanted.end)}


def test_no_tokens_asked_for_computes_the_prompt_and_ends() -> None:
    loop = Loop(n_batch=5)
    loop.scheduler.add(request("a", prompt_of(8), max_tokens=0, n=2))
    assert ends(loop.drain()) == {("a", 0): FinishReason.LENGTH, ("a", 1): FinishReason.LENGTH}
    assert loop.shapes() == [[5], [3]]
    assert not any(s.outputs for plan in loop.plans for s in plan.sequences)


def test_a_sequence_that_fails_takes_the_samples_of_its_prompt_along_and_nobody_else() -> None:
    loop = Loop(n_batch=6)
    loop.scheduler.add(request("bad", (1, 2, 3, POISON, 1, 2, 3, 1), n=3))
    loop.scheduler.add(request("good", (2, 2)))
    events = loop.drain()
    assert {key for key, end in ends(events).items() if end is not FinishReason.LENGTH} == {
        ("bad", 0), ("bad", 1), ("bad", 2),
    }  # fmt: skip
    assert ends(events)["good", 0] is FinishReason.LENGTH


@pytest.mark.parametrize("params", [{"grammar": Grammar("regex", "a")}, {"mirostat": 2}])  # type: ignore[arg-type]
def test_who_must_know_its_last_token_skips_a_step(params: dict[str, object]) -> None:
    loop = Loop()
    for made in (request("steady", (1, 2)), request("stepwise", (3, 4), **params)):
        loop.scheduler.add(made)
    plans, names = [], []
    for _ in range(4):
        plan = loop.scheduler.schedule()
        assert plan is not None
        plans.append(plan)
        names.append({loop.scheduler.owner(s.sequence)[0] for s in plan.sequences})
        if len(plans) == 2:
            loop.scheduler.commit(plans[0], loop.runner.run(plans[0]))
            del plans[0]
    assert names == [{"steady", "stepwise"}, {"steady"}, {"steady", "stepwise"}, {"steady"}]


def test_fail_all_ends_everything_also_with_steps_in_flight() -> None:
    loop = Loop()
    loop.scheduler.add(request("a", prompt_of(6), n=3))
    loop.scheduler.add(request("b", prompt_of(3)))
    loop.scheduler.schedule()
    loop.scheduler.schedule()
    error = RuntimeError("broken")
    events = loop.scheduler.fail_all(error)
    assert len(events) == 4
    assert all(event.error is error for event in events)
    assert not loop.scheduler.has_work
    assert loop.cache.stats().held == (0,)
    loop.scheduler.check()


# --- samples of one prompt ----------------------------------------------------------------------------------------


def test_samples_fork_after_the_prompt_as_places_allow() -> None:
    loop = Loop(n_parallel=2)
    asked = request("a", prompt_of(10), n=5, max_tokens=3)
    loop.scheduler.add(asked)
    first = loop.step()
    assert [event.index for event in first] == [0, 1, 2, 3, 4], "all first tokens come from the prompt's last row"
    events = first + loop.drain()
    assert loop.prompt_tokens == 10
    assert max(len(plan.sequences) for plan in loop.plans) == 2
    for index in range(5):
        tokens = tuple(t for e in events if e.index == index for t in e.tokens)
        assert tokens == alone(asked, index, 200).tokens
    assert [e.cached_tokens for e in sorted(events, key=lambda e: e.index) if e.final] == [0, 10, 10, 10, 10]


def test_another_sample_takes_the_prompt_over_when_its_first_one_ends() -> None:
    loop = Loop(n_batch=4)
    asked = request("a", prompt_of(10), n=2)
    loop.scheduler.add(asked)
    loop.step()
    assert ends(loop.scheduler.finish("a", 0)) == {("a", 0): FinishReason.STOP}
    loop.scheduler.check()
    events = loop.drain()
    assert loop.prompt_tokens == 10
    assert tuple(t for e in events for t in e.tokens) == alone(asked, 1, 200).tokens


# --- memory pressure ----------------------------------------------------------------------------------------------


def test_the_last_to_arrive_gives_way_and_comes_back() -> None:
    loop = Loop(pages=8, page_size=4)
    asked = [unending(name, (start, *prompt_of(6)), tokens=16) for name, start in (("old", 1), ("new", 2))]
    loop.scheduler.add(unending("short", (3,), tokens=1))
    loop.drain()  # so that short answers are expected
    for one in asked:
        loop.scheduler.add(one)
    events: list[TokenEvent] = []
    while loop.scheduler.counters.preemptions == 0:
        events += loop.step()
    assert (loop.scheduler.num_running, loop.scheduler.num_waiting) == (1, 1)
    events += loop.drain()
    assert [e.request_id for e in events if e.final] == ["old", "new"]
    for one in asked:
        tokens = tuple(t for e in events if e.request_id == one.request_id for t in e.tokens)
        assert tokens == alone(one, 0, 200).tokens


def test_admission_leaves_head_room_for_those_who_run() -> None:
    loop = Loop(pages=4, page_size=4)
    loop.scheduler.add(request("a", prompt_of(7), max_tokens=8))  # two pages, and a third soon
    loop.scheduler.add(request("b", (2, *prompt_of(6)), max_tokens=8))  # two more would leave none
    loop.step()
    assert (loop.scheduler.num_running, loop.scheduler.num_waiting) == (1, 1)
    loop.drain()
    assert loop.scheduler.counters.preemptions == 0


# --- policy -------------------------------------------------------------------------------------------------------


def test_common_prefix() -> None:
    for length in range(9):
        a = [*range(length), 50, 60]
        assert policy.common_prefix(a, [*range(length), 51, 60]) == length
        assert policy.common_prefix(a, a[:length]) == length
    assert policy.common_prefix([1, 2], [1, 2]) == 2
    assert policy.common_prefix([], [1]) == 0


@pytest.mark.parametrize(
    ("params", "tail"),
    [
        ({}, 0),
        ({"repeat_penalty": 1.1}, 64),
        ({"presence_penalty": 1, "repeat_last_n": -1}, -1),
        ({"frequency_penalty": 1, "repeat_last_n": 0}, 0),
        ({"dry_multiplier": 1, "dry_penalty_last_n": 9}, 9),
        ({"dry_multiplier": 1, "repeat_penalty": 2, "repeat_last_n": 3, "dry_penalty_last_n": 9}, 9),
        ({"dry_multiplier": 1, "repeat_penalty": 2, "samplers": (SamplerStage.TOP_K,)}, 0),
    ],
)
def test_history_is_as_long_as_the_chain_looks_back(params: dict[str, object], tail: int) -> None:
    assert history_tail(SamplingParams(**params)) == tail  # type: ignore[arg-type]
