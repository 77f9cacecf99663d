"""Runs plans on an executable that keeps drawn tokens where it draws them: a step is started before the last one's
tokens are known here, and waited for by whoever asks for its result.

What cannot be launched (rows whose draw needs the host, a step that fails to start) goes through the plain runner,
after what was launched before it. Knows a compiled program and the step contract; knows no scheduler and no requests.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import Protocol, TypeVar, runtime_checkable

from plait.engine.looking import OutputRows
from plait.engine.packing import Packer, only_edits
from plait.engine.runner import REMEMBERED_STEPS, Masks, Runner, row_results, sample_rows_of
from plait.ops.api import Executable, StepInputs
from plait.ops.sampling import Sampled, SampleRow
from plait.scheduler.plan import FromStep, PlannedSampling, RowResult, StepPlan, StepResult
from plait.types import TokenId

T = TypeVar("T")


class PendingStep(Protocol):
    """A launched step."""

    def result(self) -> list[Sampled]:
        """Wait for it. Raises what the device reports."""
        ...

    @property
    def seconds(self) -> float:
        """How long the device took, once the result is there."""
        ...


@runtime_checkable
class LaunchingExecutable(Protocol):
    """An executable that may start a step and its draws without waiting.

    In `step.tokens` and in histories a token -1 - i stands for the i-th draw of the launch before."""

    def launches(self, rows: Sequence[SampleRow]) -> bool: ...

    def launch(self, step: StepInputs, picks: Sequence[int], rows: Sequence[SampleRow]) -> PendingStep: ...


class _Launched:
    """A step on its way: what was launched, and which of its outputs draw."""

    def __init__(self, plan: StepPlan, pending: PendingStep, draws: list[int | None]) -> None:
        self.plan, self.draws = plan, draws
        self._pending = pending
        self._rows: tuple[RowResult, ...] | None = None

    def rows(self) -> tuple[RowResult, ...]:
        if self._rows is None:
            drawn = self._pending.result()
            results = row_results(drawn)
            self._rows = tuple([RowResult(()) if i is None else results[i] for i in self.draws])
        return self._rows

    def result(self) -> StepResult:
        rows = self.rows()
        return StepResult(self.plan.step, rows, self._pending.seconds)


class LaunchHandle:
    """A submitted plan; see `runner.Handle`."""

    def __init__(self, future: Future[_Launched | StepResult]) -> None:
        self._future = future

    def result(self) -> StepResult:
        """Wait for the step and return its result. Raises what broke the runner or the device."""
        outcome = self._future.result()
        return outcome.result() if isinstance(outcome, _Launched) else outcome

    def wait(self) -> None:
        """Wait for the end of the step, whatever came of it."""
        wait((self._future,))
        if self._future.exception() is None:
            outcome = self._future.result()
            if isinstance(outcome, _Launched):
                try:
                    outcome.rows()
                except Exception:  # it is `result` that tells
                    return


class LaunchingRunner:
    """Like `runner.Runner`, over a `LaunchingExecutable`."""

    def __init__(self, executable: Executable, num_groups: int, masks: Masks | None = None) -> None:
        assert isinstance(executable, LaunchingExecutable)
        self._launching: LaunchingExecutable = executable
        self._executable = executable
        self._plain = Runner(executable, num_groups, masks)
        self._packer = Packer(num_groups)
        self._launched: OrderedDict[int, _Launched] = OrderedDict()
        self._last: int | None = None  # the step launched last

    def submit(self, plan: StepPlan) -> LaunchHandle:
        """Queue a step. Its FromStep tokens must be drawn by steps submitted before."""
        self._plain.begin(plan)
        return LaunchHandle(self._plain.queue(lambda: self._run(plan)))

    def call(self, work: Callable[[Executable], T]) -> T:
        """Do `work` between the steps submitted before and those after, and wait for it. Raises what it raises."""
        return self._plain.call(work)

    def close(self) -> None:
        """Finish what is queued, then stop the worker."""
        self._plain.close()

    def _run(self, plan: StepPlan) -> _Launched | StepResult:
        launched = None
        if not self._plain.failed_lately(plan):
            if any(plan.edits):  # once, whichever way the rows go
                self._executable.run(only_edits(plan.edits))
                plan = replace(plan, edits=())
            launched = self._try(plan)
        if launched is None:
            self._settle()
            return self._plain.run(plan)
        self._launched[plan.step], self._last = launched, plan.step
        while len(self._launched) > REMEMBERED_STEPS:
            self._launched.popitem(last=False)
        return launched

    def _try(self, plan: StepPlan) -> _Launched | None:
        """Starts the step; None where it must go the plain way."""
        outputs = OutputRows(plan.sequences)
        wanted = [(pick, use) for pick, use in zip(outputs.picks, outputs.uses, strict=True) if use is not None]
        samplings = [use for _, use in wanted if isinstance(use, PlannedSampling) and use.constraint is None]
        if len(samplings) < len(wanted):
            return None
        rows = sample_rows_of(samplings, self._token)
        if not self._launching.launches(rows):
            return None
        numbers = itertools.count()
        draws = [None if use is None else next(numbers) for use in outputs.uses]
        try:
            step = self._packer.pack(plan.sequences, outputs.wanted, self._token)
            return _Launched(plan, self._launching.launch(step, [pick for pick, _ in wanted], rows), draws)
        except Exception:
            # The plain way finds who is to blame, by halves.
            return None

    def _settle(self) -> None:
        """Waits for what was launched, and tells the plain runner what it drew."""
        for step, launched in self._launched.items():
            self._plain.remember(step, list(launched.rows()), {})
        self._launched.clear()
        self._last = None

    def _token(self, source: FromStep) -> TokenId:
        """A token by number, or -1 - i for the i-th draw of the launch before this one."""
        launched = self._launched.get(source.step)
        if launched is None:
            return self._plain.token(source)
        draw = launched.draws[source.output]
        if source.step == self._last and draw is not None:
            return -1 - draw
        tokens = launched.rows()[source.output].tokens
        return tokens[-1] if tokens else 0
