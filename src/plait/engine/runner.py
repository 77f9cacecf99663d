"""Runs plans: packs them, runs the program, samples, and names whoever makes a step fail.

Knows a compiled program and the step contract; knows no scheduler and no requests. Plans run in the order in which they
were submitted, one at a time, on one worker thread, so that the next may be made while one runs.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from plait.cache.edits import GroupEdits
from plait.engine.halving import Rows, run_by_halves
from plait.engine.packing import Packer
from plait.errors import StepError
from plait.formats.tensor import F32Array
from plait.ops.api import Executable
from plait.ops.sampling import Sampled, SampleRow
from plait.scheduler.plan import FromStep, PlannedSampling, PlannedSequence, RowResult, StepPlan, StepResult
from plait.types import TokenId

T = TypeVar("T")
REMEMBERED_STEPS = 2
"""A plan refers to at most the step before it; one more for good measure."""


class Handle:
    """A submitted plan."""

    def __init__(self, future: Future[StepResult]) -> None:
        self._future = future

    def result(self) -> StepResult:
        """Wait for the step and return its result. Raises what broke the runner itself; a fault of the program or of
        sampling is part of the result."""
        return self._future.result()

    def wait(self) -> None:
        """Wait for the end of the step, whatever came of it."""
        wait((self._future,))


class Runner:
    """Owns an executable. A step that raises is run again by halves: the sequences that raise alone are its
    `failures`, the others have their results as if nothing had happened."""

    def __init__(self, executable: Executable, num_groups: int) -> None:
        self._executable = executable
        self._packer = Packer(num_groups)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plait-step")
        self._drawn: OrderedDict[int, list[RowResult]] = OrderedDict()
        self._failed: OrderedDict[int, dict[int, StepError]] = OrderedDict()
        self._sample_seconds = 0.0  # of the step that runs

    def submit(self, plan: StepPlan) -> Handle:
        """Queue a step. Its FromStep tokens must be drawn by steps submitted before."""
        return Handle(self.queue(lambda: self.run(plan)))

    def queue(self, work: Callable[[], T]) -> Future[T]:
        """Do `work` on the worker, after what was submitted before."""
        return self._worker.submit(work)

    def call(self, work: Callable[[Executable], T]) -> T:
        """Do `work` between the steps submitted before and those after, and wait for it. Raises what it raises."""
        return self._worker.submit(work, self._executable).result()

    def close(self) -> None:
        """Finish what is queued, then stop the worker."""
        self._worker.shutdown(wait=True)

    def failed_lately(self, plan: StepPlan) -> bool:
        """Whether a sequence of this plan failed in a step that the plan may not have heard of."""
        failed = {sequence for errors in self._failed.values() for sequence in errors}
        return bool(failed) and any(planned.sequence in failed for planned in plan.sequences)

    def run(self, plan: StepPlan) -> StepResult:
        """Run a plan; on the worker only."""
        start, self._sample_seconds = time.perf_counter(), 0.0
        # What a failed sequence planned ahead has nothing to stand on. Its result is dropped, and so are its edits:
        # a plan's edits serve the sequences of that plan alone.
        outcomes: dict[int, tuple[RowResult, ...] | StepError] = {}
        for errors in self._failed.values():
            outcomes.update(errors)
        live = [planned for planned in plan.sequences if planned.sequence not in outcomes]
        if live:
            outcomes.update(
                zip((p.sequence for p in live), run_by_halves(live, plan.edits, self._run_part), strict=True)
            )
        rows: list[RowResult] = []
        failures: dict[int, StepError] = {}
        for planned in plan.sequences:
            outcome = outcomes[planned.sequence]
            if isinstance(outcome, StepError):
                failures[planned.sequence] = outcome
                outcome = (RowResult((), (), outcome),) * len(planned.outputs)
            rows += outcome
        self.remember(plan.step, rows, failures)
        seconds = time.perf_counter() - start
        return StepResult(plan.step, tuple(rows), seconds, tuple(failures.items()), self._sample_seconds)

    def remember(self, step: int, rows: list[RowResult], failures: dict[int, StepError]) -> None:
        """What a step drew, for the plans that name its tokens."""
        self._drawn[step], self._failed[step] = rows, failures
        while len(self._drawn) > REMEMBERED_STEPS:
            self._drawn.popitem(last=False)
            self._failed.popitem(last=False)

    # --- one run of the program -----------------------------------------------------------------------------------

    def _run_part(self, sequences: Sequence[PlannedSequence], edits: tuple[GroupEdits, ...]) -> Rows:
        out_rows: dict[int, int] = {}  # row of the step: row of the logits
        picks: list[int] = []  # for each output, its row of the logits
        base = 0
        for planned in sequences:
            picks += [out_rows.setdefault(base + row, len(out_rows)) for row, _ in planned.outputs]
            base += len(planned.tokens)
        logits = self._executable.run(self._packer.pack(sequences, edits, list(out_rows), self.token))
        start = time.perf_counter()
        results = iter(self._sample(logits, picks, [s for p in sequences for _, s in p.outputs]))
        self._sample_seconds += time.perf_counter() - start
        return [tuple(next(results) for _ in planned.outputs) for planned in sequences]

    def _sample(self, logits: F32Array, picks: list[int], samplings: list[PlannedSampling | None]) -> list[RowResult]:
        wanted = [(pick, sampling) for pick, sampling in zip(picks, samplings, strict=True) if sampling is not None]
        rows = [self._sample_row(sampling) for _, sampling in wanted]
        drawn = iter(self._executable.sample(logits, [pick for pick, _ in wanted], rows))
        return [RowResult(()) if sampling is None else _row_result(next(drawn)) for sampling in samplings]

    def _sample_row(self, sampling: PlannedSampling) -> SampleRow:
        history = sampling.history
        if sampling.pending is not None:
            history = (*history, self.token(sampling.pending))
        return SampleRow(sampling.params, sampling.sample_index, sampling.position, history, sampling.dry_breaker_ids)

    def token(self, source: FromStep) -> TokenId:
        """The token that an earlier step drew."""
        tokens = self._drawn[source.step][source.output].tokens
        # A row that failed drew nothing; what follows it is dropped, so any token of the vocabulary will do.
        return tokens[-1] if tokens else 0


def _row_result(sampled: Sampled) -> RowResult:
    if sampled.error is not None:
        return RowResult((), (), sampled.error)
    return RowResult((sampled.token,), (sampled.logprobs,) if sampled.logprobs else ())
