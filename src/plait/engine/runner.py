"""Runs plans: packs them, runs the program, samples, and names whoever makes a step fail.

Knows a compiled program and the step contract; knows no scheduler and no requests. Plans run in the order in which they
were submitted, one at a time, on one worker thread, so that the next may be made while one runs.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import repeat
from typing import Protocol, TypeVar

from plait.engine.halving import Rows, run_by_halves
from plait.engine.looking import OutputRows, look_row
from plait.engine.packing import Packer, only_edits
from plait.errors import PlaitError, StepError
from plait.formats.tensor import F32Array
from plait.ops.api import Executable
from plait.ops.sampling import Sampled, SampleRow, U32Array
from plait.scheduler.plan import (
    Constraint,
    FromStep,
    PlannedSampling,
    PlannedSequence,
    PooledRow,
    PromptToken,
    RowResult,
    RowUse,
    StepPlan,
    StepResult,
)
from plait.types import TokenId

T = TypeVar("T")
_new = tuple.__new__  # hot: records are made without their constructors
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


class Masks(Protocol):
    """Which tokens may be drawn; see `grammar.Grammars`."""

    def begin(self, plan: StepPlan) -> None: ...

    def mask(self, constraint: Constraint) -> U32Array: ...


class Runner:
    """Owns an executable. A step that raises is run again by halves: the sequences that raise alone are its
    `failures`, the others have their results as if nothing had happened."""

    def __init__(self, executable: Executable, num_groups: int, masks: Masks | None = None) -> None:
        """`masks` must be there if any row has a constraint."""
        self._executable = executable
        self._masks = masks
        self._packer = Packer(num_groups)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plait-step")
        self._drawn: OrderedDict[int, list[RowResult]] = OrderedDict()
        self._failed: OrderedDict[int, dict[int, StepError]] = OrderedDict()
        self._sample_seconds = 0.0  # of the step that runs

    def submit(self, plan: StepPlan) -> Handle:
        """Queue a step. Its FromStep tokens must be drawn by steps submitted before."""
        self.begin(plan)
        return Handle(self.queue(lambda: self.run(plan)))

    def begin(self, plan: StepPlan) -> None:
        """Prepare the masks of a plan while others run."""
        if self._masks is not None:
            self._masks.begin(plan)

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
            if any(plan.edits):
                self._executable.run(only_edits(plan.edits))
            outcomes.update(zip((p.sequence for p in live), run_by_halves(live, self._run_part), strict=True))
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

    def _run_part(self, sequences: Sequence[PlannedSequence]) -> Rows:
        rows = OutputRows(sequences)
        step = self._packer.pack(sequences, rows.wanted, self.token, rows.hidden_only)
        logits = self._executable.run(step)
        hidden = self._executable.hidden()[len(logits) :].copy() if rows.hidden_only else None
        start = time.perf_counter()
        results = iter(self._sample(logits, hidden, rows))
        self._sample_seconds += time.perf_counter() - start
        return [tuple(next(results) for _ in planned.outputs) for planned in sequences]

    def _sample(self, logits: F32Array, hidden: F32Array | None, outputs: OutputRows) -> list[RowResult]:
        rows = [self._row_of(use, logits, pick) for use, pick in zip(outputs.uses, outputs.picks, strict=True)]
        wanted = [(pick, row) for pick, row in zip(outputs.picks, rows, strict=True) if isinstance(row, SampleRow)]
        drawn = iter(self._executable.sample(logits, [pick for pick, _ in wanted], [row for _, row in wanted]))
        results = []
        for use, pick, row in zip(outputs.uses, outputs.picks, rows, strict=True):
            if isinstance(row, SampleRow):
                results.append(row_result(next(drawn), isinstance(use, PlannedSampling)))
            elif hidden is not None and isinstance(use, PooledRow):
                results.append(RowResult((), hidden=hidden[pick]))
            else:
                assert row is None or isinstance(row, RowResult)
                results.append(row or RowResult(()))
        return results

    def _row_of(self, use: RowUse, logits: F32Array, pick: int) -> SampleRow | RowResult | None:
        """How to sample a row, its result where there is nothing to sample, or None for no logits or no use of them."""
        if isinstance(use, PlannedSampling):
            return self._sample_row(use)
        return look_row(use, logits[pick]) if isinstance(use, PromptToken) else None

    def _sample_row(self, sampling: PlannedSampling) -> SampleRow | RowResult:
        """How to sample a row, or why its grammar gives no mask."""
        mask = None
        if sampling.constraint is not None:
            assert self._masks is not None, "a row has a grammar and there are no masks"
            try:
                mask = self._masks.mask(sampling.constraint)
            except Exception as error:
                found = error if isinstance(error, PlaitError) else StepError.of(error)
                return RowResult((), (), found)
        return sample_row(sampling, self.token, mask)

    def token(self, source: FromStep) -> TokenId:
        """The token that an earlier step drew."""
        tokens = self._drawn[source.step][source.output].tokens
        # A row that failed drew nothing; what follows it is dropped, so any token of the vocabulary will do.
        return tokens[-1] if tokens else 0


def sample_row(
    sampling: PlannedSampling, token: Callable[[FromStep], TokenId], mask: U32Array | None = None
) -> SampleRow:
    """How to sample a row; `token` is asked for the one that the plan did not know."""
    params, index, position, history, pending, breakers, _, mu = sampling
    if pending is not None:
        history = (*history, token(pending))
    return _new(SampleRow, (params, index, position, history, breakers, mask, mu))


def sample_rows_of(samplings: Sequence[PlannedSampling], token: Callable[[FromStep], TokenId]) -> list[SampleRow]:
    """`sample_row` of each, without masks; by columns where there is no token that the plans did not know."""
    if not samplings or any(sampling.pending for sampling in samplings):
        return [sample_row(sampling, token) for sampling in samplings]
    params, index, position, history, _, breakers, _, mu = zip(*samplings, strict=True)
    columns = zip(params, index, position, history, breakers, repeat(None), mu)
    return list(map(_new, repeat(SampleRow), columns))


def row_results(drawn: Sequence[Sampled]) -> list[RowResult]:
    """`row_result` of each; by columns where none has more than a token."""
    if not drawn or any(one.logprobs or one.error for one in drawn):
        return [row_result(one) for one in drawn]
    token, logprobs, error, mu = zip(*drawn, strict=True)
    columns = zip(zip(token, strict=True), logprobs, error, mu, repeat(None))
    return list(map(_new, repeat(RowResult), columns))


def row_result(sampled: Sampled, drawn: bool = True) -> RowResult:
    """What came of a row; of one that was not `drawn` from, its log-probabilities alone."""
    token, logprobs, error, mu = sampled
    if error is not None:
        return RowResult((), (), error)
    if not drawn:
        return RowResult((), (logprobs,))
    return _new(RowResult, ((token,), (logprobs,) if logprobs else (), None, mu, None))
