"""The loop: schedule, run, commit. Knows the scheduler and the runner; knows no text, no files and no processes.

One caller at a time: an engine has no lock of its own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from plait.control.controller import Controller
from plait.control.records import Setting
from plait.engine.interrupts import uninterrupted
from plait.engine.observe import Observer, Planned
from plait.engine.stats import EngineStats
from plait.errors import OptionError, PlaitError, RequestError, StepError
from plait.garbage import uncollected
from plait.metrics.meter import Meter
from plait.metrics.records import SampleRecord, StepRecord
from plait.metrics.snapshot import Snapshot
from plait.scheduler.limits import Limits
from plait.scheduler.plan import StepPlan, StepResult
from plait.scheduler.policy import Promise
from plait.scheduler.request import Request
from plait.scheduler.scheduler import Scheduler
from plait.types import EngineRequest, TokenEvent

if TYPE_CHECKING:  # arrays, which the simulator does without
    from plait.engine.grammar import Grammars
    from plait.engine.kvdisk import KVDisk
    from plait.engine.pooling import Pools
    from plait.engine.prefixes import Prefixes

KEPT_RECORDS = 4096
PATIENCE_S = 1.0
"""With nothing to run, so long a step waits at most for a prompt that is read from disk, or a grammar."""


class StepHandle(Protocol):
    """A submitted plan; see `runner.Handle`."""

    def result(self) -> StepResult: ...

    def wait(self) -> None: ...


class StepRunner(Protocol):
    """Whatever runs plans in order; see `runner.Runner`."""

    def submit(self, plan: StepPlan) -> StepHandle: ...

    def close(self) -> None: ...


class StepWatch(Protocol):
    """Whoever wants to know which steps are in flight; see `rows.RowMarks`."""

    def planned(self, plan: StepPlan, owner: Callable[[int], tuple[str, int]]) -> None: ...

    def landed(self, plan: StepPlan) -> None: ...


class Engine:
    """Serves requests step by step. Every accepted sample gets exactly one final event, whatever happens.

    `in_flight` is the number of steps (0 or 1) that may run while the next is planned. `records` are the latest steps,
    `meter` counts everything. A `controller` moves the limits. `disk` keeps prompts over a restart. `grammars` hold
    answers to what requests ask for. `clock` gives seconds that only grow. `watch`, if set, hears of every step before
    it is run and after; `prefixes`, if set, saves and restores what is cached, between two steps.

    Raises `OptionError` for another number of steps in flight.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: StepRunner,
        *,
        in_flight: int = 0,
        meter: Meter | None = None,
        controller: Controller | None = None,
        disk: KVDisk | None = None,
        grammars: Grammars | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if in_flight not in (0, 1):
            raise OptionError(f"in_flight is {in_flight}; give 0 or 1")
        self.meter = meter or Meter()
        self.records: deque[StepRecord] = deque(maxlen=KEPT_RECORDS)
        self._scheduler = scheduler
        self._runner = runner
        self._in_flight = in_flight
        self._clock = clock
        self.controller = controller
        self._disk = disk
        self._grammars = grammars
        self._pools: Pools | None = None  # once somebody asks for an embedding
        self._setting: Setting | None = None  # the controller's, as far as the scheduler has it
        self._streams = 0  # in the step planned last, to tell the controller
        self._observer = Observer(scheduler, self.meter)
        self._flying: deque[tuple[StepPlan, StepHandle, Planned]] = deque()
        self._news: list[TokenEvent] = []  # for the next step to hand out
        self._closed = False
        self.watch: StepWatch | None = None
        self.prefixes: Prefixes | None = None

    def add(self, request: EngineRequest) -> None:
        """Accept a request. Raises `QueueFullError` where too many wait, `RequestError` or `PromptTooLongError` for one
        that cannot be served."""
        if self._closed:
            raise RequestError("the engine is closed; make a new one")
        if request.sampling.grammar is not None and self._grammars is None:
            raise RequestError("this engine has no tokenizer, so it cannot hold an answer to a grammar")
        try:
            self._news += self._scheduler.add(request)
        except PlaitError as error:
            self.meter.rejected(error.code)
            raise
        if self._disk is not None:
            self._disk.add(request)
        if self._grammars is not None:
            self._grammars.add(request)
        if request.pooling is not None and self._pools is None:
            from plait.engine.pooling import Pools

            self._pools = Pools()
        self.meter.arrived(request, self._clock(), request.tenant)

    def abort(self, request_id: str) -> None:
        """End a request with `abort`; the next step brings its final events. An unknown id is no error: it may just
        have ended."""
        self._news += self._scheduler.abort(request_id)

    def finish(self, request_id: str, index: int) -> None:
        """End one sample with `stop`: the caller found a stop string. The next step brings its final event."""
        self._news += self._scheduler.finish(request_id, index)

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do or to tell."""
        return bool(self._news or self._flying or self._scheduler.has_work)

    def step(self) -> list[TokenEvent]:
        """Plan and start a step if one can be planned, and wait for the oldest one if no more may be in flight. May
        return nothing though there is work."""
        launched = False
        if len(self._flying) <= self._in_flight:  # more, if an interrupt cut the last step short
            launched = self._launch()
        if self._flying and (not launched or len(self._flying) > self._in_flight):
            self._land()
        elif not launched and not self._news:
            self._be_patient()
        return self._take_news()

    def _be_patient(self) -> None:
        """Nothing can run: wait for a grammar or a prompt on its way, if there is one."""
        if self._grammars is not None and self._grammars.wait(PATIENCE_S):
            return
        if self._disk is not None and self._disk.loading:
            self._disk.wait(PATIENCE_S)

    def run(self) -> Iterator[TokenEvent]:
        """Step until nothing is left to do."""
        while self.has_work:
            yield from self.step()

    def close(self) -> list[TokenEvent]:
        """End every request with `abort`, stop the worker, and return the last events. May be called again."""
        self._closed = True
        while self._flying:
            self._land()
        for request_id in tuple(self._scheduler.requests):
            self.abort(request_id)
        if self._disk is not None:
            self._disk.close()
        self._runner.close()
        news = self._take_news()
        if self._grammars is not None:
            self._grammars.close()
        return news

    @property
    def stats(self) -> EngineStats:
        """Totals since the engine started."""
        return EngineStats.of(self.meter)

    @property
    def requests(self) -> tuple[Request, ...]:
        """Those that have not ended, in order of arrival. To be looked at, not to be changed."""
        return tuple(self._scheduler.requests.values())

    def snapshot(self) -> Snapshot:
        """All metrics as they are now."""
        self.meter.limits(_named(self._scheduler.limits))
        return self.meter.snapshot(self._clock(), self._scheduler.num_waiting)

    def check(self) -> None:
        """Verify the invariants of the bookkeeping; raises `AssertionError`."""
        self._scheduler.check()

    def _launch(self) -> bool:
        """Plan a step and hand it to the runner, as one: an interrupt between the two would lose the plan."""
        with uninterrupted(), uncollected():
            self._news += self._scheduler.expire()
            if self._disk is not None:
                self._disk.move()
            began, waiting = self._clock(), self._scheduler.num_waiting
            if self.controller is not None:
                self._adapt(self.controller, began, waiting)
            try:
                plan = self._scheduler.schedule()
            except Exception as error:
                self._give_up(error)
                return False
            if plan is not None:
                planned = self._observer.planned(plan, waiting, began, self._clock())
                self._streams = planned.streams
                if self.controller is not None:
                    rows = planned.tokens - plan.prompt_tokens
                    self.controller.planned(plan.prompt_tokens, rows, planned.key_reads, planned.decode_key_reads)
                if self.watch is not None:
                    self.watch.planned(plan, self._scheduler.owner)
                self._flying.append((plan, self._runner.submit(plan), planned))
        return plan is not None

    def _adapt(self, controller: Controller, now: float, waiting: int) -> None:
        """Let the controller move the limits."""
        decision = controller.between_steps(now, waiting, self._scheduler.num_running, self._streams)
        setting = controller.setting
        if setting is not self._setting:
            self._setting = setting
            self._scheduler.limits = replace(
                self._scheduler.limits,
                n_batch=setting.n_batch,
                n_prefill=setting.n_prefill,
                n_parallel=setting.n_parallel,
                row_share=setting.row_share,
                promise=Promise(setting.ttft_s, setting.token_s) if setting.ttft_s else None,
            )
        if decision is not None:
            self.meter.limits(_named(self._scheduler.limits), decision.changed)
            self.meter.model(decision.snapshot.model.terms())

    def _land(self) -> None:
        """Wait for the oldest step, which may be interrupted, and take its result in, which may not."""
        plan, handle, planned = self._flying[0]
        try:
            result = handle.result()
        except Exception as error:
            self._give_up(error)
            return
        with uninterrupted(), uncollected():
            self._flying.popleft()
            now = self._clock()
            if self._pools is not None:
                self._pools.take(plan, result, self._scheduler.requests)
            try:
                events = self._scheduler.commit(plan, result)
            except Exception as error:
                self._give_up(error)
                return
            finally:
                if self.watch is not None:
                    self.watch.landed(plan)
            self._news += events
            if self._grammars is not None:
                for request_id, index in self._grammars.completed(events):
                    self._news += self._scheduler.finish(request_id, index)
            record = self._observer.landed(plan, planned, result, now)
            self.records.append(record)
            if self.controller is not None:
                self.controller.observe(record)

    def _give_up(self, error: Exception) -> None:
        """The runner or the scheduler itself broke, and it is not known what was computed: every request hears of it,
        and ends."""
        found = StepError(f"the engine failed on this step: {type(error).__name__}: {error}")
        found.__cause__ = error
        for _, handle, _ in self._flying:
            handle.wait()
        with uninterrupted():
            for plan, _, _ in self._flying:
                if self.watch is not None:
                    self.watch.landed(plan)
            self._flying.clear()
            self._news += self._scheduler.fail_all(found)

    def _take_news(self) -> list[TokenEvent]:
        with uninterrupted():
            events, self._news = self._news, []
            if self._pools is not None:
                events = self._pools.finish(events)
            return self._counted(events)

    def _counted(self, events: list[TokenEvent]) -> list[TokenEvent]:
        """The events, the final ones with what the meter knows of their samples."""
        if events:
            if ended := self.meter.events(events, self._clock()):
                events = with_records(events, ended)
            if self._grammars is not None:
                self._grammars.end(events)
            if self._disk is not None:
                self._keep(self._disk, events)
        return events

    def _keep(self, disk: KVDisk, events: list[TokenEvent]) -> None:
        """Prompts of requests that ended go to disk; at once where no other step will come to do it."""
        ended = [event.request_id for event in events if event.final]
        for request_id in ended:
            disk.end(request_id)
        if ended and not self._flying and not self._scheduler.has_work:
            disk.move(idle=True)


def with_records(events: list[TokenEvent], ended: list[SampleRecord]) -> list[TokenEvent]:
    """The events, what the records of the samples that `ended` with them say added to their final ones."""
    records = {(record.request_id, record.index): record for record in ended}
    found = []
    for event in events:
        if event.final and (record := records.get((event.request_id, event.index))) is not None:
            event = event._replace(queue_s=record.queue_s or 0.0, mean_batch_tokens=record.mean_batch_tokens or 0.0)
        found.append(event)
    return found


def _named(limits: Limits) -> dict[str, float]:
    """The limits that are shown, by the labels of the metric."""
    prefill = limits.n_batch if limits.n_prefill is None else limits.n_prefill
    return {
        "n_batch": limits.n_batch,
        "n_prefill": prefill,
        "n_parallel": limits.n_parallel,
        "row_share": limits.row_share,
        "ttft_s": limits.promise.ttft_s if limits.promise else 0.0,
        "token_s": limits.promise.token_s if limits.promise else 0.0,
    }
