"""Whatever the schedule, chunking, preemption, forks, aborts, pool and steps in flight: every sample ends exactly once,
with exactly the tokens it yields alone."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.errors import DeadlineError, PromptTooLongError, QueueTimeoutError
from plait.scheduler.limits import Limits
from plait.scheduler.plan import StepPlan, StepResult
from plait.scheduler.policy import MAX_PREEMPTIONS, Promise
from plait.scheduler.scheduler import Scheduler
from plait.types import CacheMode, EngineRequest, FinishReason, Priority, SamplingParams, TokenEvent
from support.toy_model import DUD, POISON, STOP, Alone, ToyRunner, alone

STEMS = ((1, 2, 3, 4, 5, 1, 2, 3, 4), (1, 2, 3, 4, 4, 4, 4, 4), (2, 2, 2), ())
TAILS = st.lists(st.sampled_from((1, 2, 3, DUD)), min_size=1, max_size=5)
PENALTIES = st.sampled_from(({}, {"repeat_penalty": 1.2, "repeat_last_n": 3}, {"dry_multiplier": 0.5}))


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.sampled_from(Priority),
        "tenant": st.sampled_from(("a", "b")),
        "cache": st.sampled_from(CacheMode),
        "salt_from": st.sampled_from((1, 3, 5)),
        "queue_timeout": st.sampled_from((1.0, 8.0)),
        "deadline": st.sampled_from((1002.0, 1010.0)),
        "pin": st.sampled_from((0.2, 3.0, 1000.0)),
    },
)


@st.composite
def configs(draw: st.DrawFn) -> CacheConfig:
    """Tiny pools, one group or two, so that a few sequences exhaust them."""
    page_size = draw(st.sampled_from((1, 2, 4)))
    pages = draw(st.integers(24 // page_size, 48 // page_size))
    windows = draw(st.sampled_from(((None,), (None, 3))))
    return CacheConfig(page_size, (pages,) * len(windows), windows, block_tokens=4)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        config=configs(),
        n_batch=st.integers(1, 12),
        n_parallel=st.integers(1, 5),
        context_length=st.integers(12, 40),
        in_flight=st.sampled_from((0, 1)),
        reuse=st.booleans(),
        n_prefill=st.sampled_from((None, 1, 4)),
        n_draft=st.sampled_from((0, 1, 3, 8)),
        row_share=st.sampled_from((0.0, 0.01, 0.2)),
    )
    def begin(
        self,
        config: CacheConfig,
        n_batch: int,
        n_parallel: int,
        context_length: int,
        in_flight: int,
        reuse: bool,
        n_prefill: int | None,
        n_draft: int,
        row_share: float,
    ) -> None:
        limits = Limits(
            n_batch=n_batch,
            n_parallel=n_parallel,
            context_length=context_length,
            n_prefill=n_prefill,
            n_draft=n_draft,
            row_share=row_share,
        )
        self.config, self.reuse = config, reuse
        self.now = 1000.0
        self.unready: set[str] = set()
        self._restart(limits)
        self.in_flight = in_flight
        self.requests: dict[str, EngineRequest] = {}
        self.got: dict[tuple[str, int], list[int]] = {}
        self.final: dict[tuple[str, int], TokenEvent] = {}
        self.asked_to_end: dict[tuple[str, int], FinishReason] = {}
        self.expired: set[tuple[str, int]] = set()
        self.steps = 0

    @rule(
        stem=st.sampled_from(STEMS),
        tail=TAILS,
        poison=st.sampled_from((False, False, False, True)),
        n=st.sampled_from((1, 1, 1, 2, 4)),
        max_tokens=st.sampled_from((None, 0, 1, 2, 9)),
        seed=st.integers(0, 50),
        stop=st.booleans(),
        salt=st.sampled_from(("", "", "b")),
        penalties=PENALTIES,
        fields=FIELDS,
        ready=st.sampled_from((True, True, True, False)),
    )
    def add(
        self,
        stem: tuple[int, ...],
        tail: list[int],
        poison: bool,
        n: int,
        max_tokens: int | None,
        seed: int,
        stop: bool,
        salt: str,
        penalties: dict[str, float],
        fields: dict[str, Any],
        ready: bool,
    ) -> None:
        prompt = (*stem, *((POISON,) if poison else ()), *tail)
        params = SamplingParams(n=n, max_tokens=max_tokens, seed=seed, **penalties)  # type: ignore[arg-type]
        request = EngineRequest(
            request_id=f"r{len(self.requests)}",
            prompt=prompt,
            sampling=params,
            stop_token_ids=frozenset({STOP}) if stop else frozenset(),
            salt=salt,
            **fields,
        )
        if len(prompt) + (max_tokens != 0) > self.scheduler.context_length:
            with pytest.raises(PromptTooLongError):
                self.scheduler.add(request)
            return
        self.scheduler.add(request)
        self.requests[request.request_id] = request
        if not ready:
            self.unready.add(request.request_id)

    @rule()
    def become_ready(self) -> None:
        self.unready.clear()

    @rule(seconds=st.sampled_from((0.1, 0.3, 2.0, 70.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for event in (events := self.scheduler.expire()):
            request = self.requests[event.request_id]
            assert isinstance(event.error, (DeadlineError, QueueTimeoutError))
            if isinstance(event.error, DeadlineError):
                assert request.deadline is not None
                assert request.deadline <= self.now
            self.expired.add((event.request_id, event.index))
        self._take(events)
        assert self.scheduler.expire() == []
        late = [r for r in self.requests.values() if r.deadline is not None and r.deadline <= self.now]
        assert all(r.request_id not in self.scheduler.requests for r in late)

    @rule(
        n_batch=st.integers(1, 12),
        n_parallel=st.integers(1, 5),
        promise=st.none() | st.builds(Promise, st.floats(0.01, 8), st.floats(0, 0.1)),
    )
    def change_limits(self, n_batch: int, n_parallel: int, promise: Promise | None) -> None:
        self.scheduler.limits = replace(self.scheduler.limits, n_batch=n_batch, n_parallel=n_parallel, promise=promise)

    def _restart(self, limits: Limits) -> None:
        self.cache = KVCache(self.config)
        self.scheduler = Scheduler(
            self.cache,
            limits,
            reuse=self.reuse,
            clock=lambda: self.now,
            ready=lambda request: request.request_id not in self.unready,
        )
        self.runner = ToyRunner(self.config)
        self.flying: deque[tuple[StepPlan, StepResult]] = deque()

    @rule()
    def crash(self) -> None:
        """A new scheduler, with empty memory, goes on where events have been handed out to."""
        open_before = self._open()
        self._restart(self.scheduler.limits)
        for request in self.requests.values():
            keys = [(request.request_id, index) for index in range(request.sampling.n)]
            if any(key in open_before for key in keys):
                resume = tuple(tuple(self.got.get(key, ())) for key in keys)
                ended = frozenset(index for _, index in set(keys) - set(open_before))
                assert self.scheduler.add(replace(request, resume=resume, ended=ended)) == []

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self._step()

    def _step(self) -> None:
        self.running = self.scheduler.num_running
        plan = self.scheduler.schedule()
        if plan is not None:
            self._check_plan(plan)
            self.flying.append((plan, self.runner.run(plan)))
            self.scheduler.check()
        if self.flying and (plan is None or len(self.flying) > self.in_flight):
            done, result = self.flying.popleft()
            self._take(self.scheduler.commit(done, result))
        self.steps += 1

    def _check_plan(self, plan: StepPlan) -> None:
        limits = self.scheduler.limits
        assert 0 < plan.num_tokens <= limits.n_batch
        assert len(plan.sequences) <= max(limits.n_parallel, self.running)
        assert len({p.sequence for p in plan.sequences}) == len(plan.sequences)
        assert 0 <= plan.prompt_tokens <= plan.num_tokens
        assert all(p.first_position + len(p.tokens) <= self.scheduler.context_length for p in plan.sequences)

    def _take(self, events: list[TokenEvent]) -> None:
        for event in events:
            key = (event.request_id, event.index)
            assert key not in self.final, "an event after the final one"
            self.got.setdefault(key, []).extend(event.tokens)
            if event.final:
                self.final[key] = event
                assert (event.finish_reason is None) != (event.error is None)
                assert event.prompt_tokens == len(self.requests[event.request_id].prompt)
                assert 0 <= event.cached_tokens <= event.prompt_tokens

    def _open(self) -> list[tuple[str, int]]:
        keys = [(r.request_id, i) for r in self.requests.values() for i in range(r.sampling.n)]
        return [key for key in keys if key not in self.final]

    @precondition(lambda self: self._open())
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id, _ = data.draw(st.sampled_from(self._open()))
        for key in self._open():
            if key[0] == request_id:
                self.asked_to_end[key] = FinishReason.ABORT
        events = self.scheduler.abort(request_id)
        assert events
        assert all(e.final for e in events)
        self._take(events)
        assert self.scheduler.abort(request_id) == []

    @precondition(lambda self: self._open())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self._open()))
        self.asked_to_end[key] = FinishReason.STOP
        events = self.scheduler.finish(*key)
        assert [(e.request_id, e.index, e.finish_reason) for e in events] == [(*key, FinishReason.STOP)]
        self._take(events)
        assert self.scheduler.finish(*key) == []

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check()

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.unready.clear()
        bound = (
            self.steps + 100 + 10 * sum(r.sampling.n * self.scheduler.context_length for r in self.requests.values())
        )
        while self.scheduler.has_work:
            assert self.steps < bound, "a request starves"
            self._step()
        self.scheduler.check()
        assert not self._open()
        self._check_recomputed()
        self.now += 2000
        assert self.scheduler.schedule() is None
        assert set(self.cache.stats().held) == {0}, "pages are held by nobody"
        for request in self.requests.values():
            for index in range(request.sampling.n):
                self._check_outcome(request, index)

    def _check_recomputed(self) -> None:
        """However small the pool, a sample is computed again only so often."""
        counters = self.scheduler.counters
        samples = sum(r.sampling.n for r in self.requests.values())
        assert counters.preemptions <= MAX_PREEMPTIONS * samples
        assert counters.recomputed_tokens <= counters.preemptions * self.scheduler.context_length

    def _check_outcome(self, request: EngineRequest, index: int) -> None:
        key = (request.request_id, index)
        event, tokens = self.final[key], tuple(self.got[key])
        wanted = alone(request, index, self.scheduler.context_length)
        if key in self.asked_to_end:
            assert event.finish_reason == self.asked_to_end[key]
            assert tokens == wanted.tokens[: len(tokens)]
            return
        if key in self.expired:
            assert tokens == wanted.tokens[: len(tokens)]
            return
        end = "error" if event.error is not None else str(event.finish_reason)
        assert Alone(tokens, end) == wanted


SchedulerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestScheduler = SchedulerMachine.TestCase


class TestSchedulerAtLength(SchedulerMachine.TestCase):
    """The same with many more schedules."""

    settings = settings(
        max_examples=400, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    pytestmark = pytest.mark.slow
