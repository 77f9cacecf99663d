"""A scheduler driven step by step over the toy model, for tests of its rules."""

from __future__ import annotations

from collections.abc import Callable

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.scheduler.limits import Limits, QueueBounds
from plait.scheduler.plan import StepPlan
from plait.scheduler.scheduler import NO_BOUNDS, Scheduler
from plait.types import EngineRequest, SamplingParams, TokenEvent
from support.toy_model import ToyRunner, alone


class Loop:
    """A scheduler with the toy model and a clock that moves by `step_s` a step."""

    def __init__(
        self,
        *,
        pages: int = 200,
        n_batch: int = 64,
        n_parallel: int = 8,
        n_prefill: int | None = None,
        queue: QueueBounds = NO_BOUNDS,
        step_s: float = 0.0,
        ready: Callable[[EngineRequest], bool] | None = None,
    ) -> None:
        config = CacheConfig(4, (pages + 1,))
        self.now, self.step_s = 100.0, step_s
        limits = Limits(n_batch=n_batch, n_parallel=n_parallel, context_length=200, n_prefill=n_prefill)
        self.scheduler = Scheduler(KVCache(config), limits, queue=queue, clock=lambda: self.now, ready=ready)
        self.runner = ToyRunner(config)
        self.asked: dict[str, EngineRequest] = {}
        self.tokens: dict[str, list[int]] = {}
        self.begun: list[str] = []  # in the order of their first tokens
        self.ended: list[str] = []
        self.plans: list[StepPlan] = []
        self._owners: list[list[str]] = []

    def add(self, name: str, prompt: tuple[int, ...], max_tokens: int = 4, **fields: object) -> None:
        for seed in range(200):
            params = SamplingParams(seed=seed, max_tokens=max_tokens)
            made = EngineRequest(request_id=name, prompt=prompt, sampling=params, **fields)  # type: ignore[arg-type]
            if alone(made, 0, 200).end != "error":
                break
        self.scheduler.add(made)
        self.asked[name] = made

    def step(self) -> list[TokenEvent]:
        events = self.scheduler.expire()
        plan = self.scheduler.schedule()
        if plan is not None:
            self.plans.append(plan)
            self._owners.append([self.scheduler.owner(p.sequence)[0] for p in plan.sequences])
            events += self.scheduler.commit(plan, self.runner.run(plan))
        self.now += self.step_s
        self.scheduler.check()
        for event in events:
            if event.request_id not in self.begun and event.tokens:
                self.begun.append(event.request_id)
            self.tokens.setdefault(event.request_id, []).extend(event.tokens)
            if event.final:
                self.ended.append(event.request_id)
        return events

    def owners(self, number: int) -> list[str]:
        """The requests that have rows in plan `number`, in its order."""
        return self._owners[number]

    def drain(self) -> list[TokenEvent]:
        events: list[TokenEvent] = []
        while self.scheduler.has_work:
            events += self.step()
        for name, made in self.asked.items():
            if name in self.tokens and not any(e.request_id == name and e.error for e in events):
                assert tuple(self.tokens[name]) == alone(made, 0, 200).tokens
        return events


def own(number: int, length: int = 5) -> tuple[int, ...]:
    """Prompts that share nothing."""
    return (10 + number, *(1 + (i * i) % 4 for i in range(length - 1)))
