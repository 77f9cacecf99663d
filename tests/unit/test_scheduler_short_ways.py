"""The short ways that planning and committing take for sequences that decode: they plan the same rows, and yield the
same events, as the general ones."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator

import pytest

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.scheduler.limits import Limits
from plait.scheduler.plan import StepPlan
from plait.scheduler.scheduler import Scheduler
from plait.types import EngineRequest, Priority, SamplingParams
from support.toy_model import DUD, STOP, ToyRunner


class GeneralCache(KVCache):
    """Has no short way to a sequence's next slot."""

    def extend_one(self, seq: int) -> None:  # type: ignore[override]
        return None


class General(Scheduler):
    """Takes every row in the general way."""

    def add(self, request: EngineRequest) -> list:  # type: ignore[type-arg]
        events = super().add(request)
        if request.request_id in self.requests:
            self.requests[request.request_id].streams = False
        return events


def traffic(seed: int) -> Iterator[list[EngineRequest | str]]:
    """Requests, and the ids of requests to be aborted, step by step."""
    rng = random.Random(seed)
    number = 0
    for _ in range(80):
        now: list[EngineRequest | str] = []
        while rng.random() < 0.3:
            prompt = tuple(rng.choice((1, 2, 3, DUD)) for _ in range(rng.randrange(1, 12)))
            how = rng.choice(({}, {}, {"repeat_penalty": 1.2, "repeat_last_n": 3}, {"mirostat": 2, "temperature": 1.0}))
            n, tokens = rng.choice((1, 1, 1, 2)), rng.choice((1, 5, 30))
            params = SamplingParams(n=n, max_tokens=tokens, seed=rng.randrange(50), **how)
            stops = frozenset({STOP}) if rng.random() < 0.5 else frozenset()
            now.append(
                EngineRequest(
                    request_id=f"r{number}",
                    prompt=(*(1, 2, 3, 1)[: rng.randrange(5)], *prompt),
                    sampling=params,
                    stop_token_ids=stops,
                    priority=rng.choice(list(Priority)),
                    tenant=rng.choice("ab"),
                )
            )
            number += 1
        if number and rng.random() < 0.05:
            now.append(f"r{rng.randrange(number)}")
        yield now


@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize("windows", [(None,), (None, 3)], ids=str)
@pytest.mark.parametrize("n_draft", [0, 3])
@pytest.mark.parametrize(("seed", "pages"), [*((seed, 24) for seed in range(5)), (26, 16), (27, 12)])
def test_plans_and_events_are_those_of_the_general_way(
    seed: int, pages: int, n_draft: int, windows: tuple[int | None, ...], in_flight: int
) -> None:
    config = CacheConfig(4, (pages,) * len(windows), windows, 4)
    limits = Limits(n_batch=16, n_parallel=6, context_length=40, n_draft=n_draft)
    short = Scheduler(KVCache(config), limits, clock=lambda: 1.0)
    general = General(GeneralCache(config), limits, clock=lambda: 1.0)
    runner = ToyRunner(config)
    flying: deque[tuple[StepPlan, StepPlan]] = deque()
    singles, arrivals = 0, traffic(seed)
    while (now := next(arrivals, None)) is not None or short.has_work:
        for what in now or ():
            if isinstance(what, str):
                assert short.abort(what) == general.abort(what)
            else:
                assert short.add(what) == general.add(what)
        plan, same = short.schedule(), general.schedule()
        assert plan == same
        if plan is not None:
            assert same is not None
            flying.append((plan, same))
            singles += sum(len(p.tokens) == 1 for p in plan.sequences)
        if flying and (plan is None or len(flying) > in_flight):
            plan, same = flying.popleft()
            result = runner.run(plan)
            assert short.commit(plan, result) == general.commit(same, result)
        assert short.counters == general.counters
    assert singles > 50
