"""Finds, when a step raises, the sequences that make it raise: by halves. Knows plans; runs what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from plait.cache.edits import GroupEdits
from plait.errors import StepError
from plait.scheduler.plan import PlannedSequence, RowResult

Rows: TypeAlias = list[tuple[RowResult, ...]]
"""The results of each sequence's output rows."""

RunPart: TypeAlias = Callable[[Sequence[PlannedSequence], tuple[GroupEdits, ...]], Rows]


def run_by_halves(
    sequences: Sequence[PlannedSequence], edits: tuple[GroupEdits, ...], run: RunPart
) -> list[tuple[RowResult, ...] | StepError]:
    """Run the sequences together; if that raises, each half by itself, and so on. Returns for each sequence its rows,
    or the error that it raises even alone.

    Their KV slots stay reserved, and running a row again writes the same values, so nothing is lost. The edits are
    handed to every attempt until one has succeeded: a step's rows never write to what its edits read.
    """
    try:
        return list(run(sequences, edits))
    except Exception as error:
        if len(sequences) == 1:
            return [_culprit(error)]
    middle = len(sequences) // 2
    left = run_by_halves(sequences[:middle], edits, run)
    if not all(isinstance(outcome, StepError) for outcome in left):
        edits = tuple(GroupEdits() for _ in edits)
    return left + run_by_halves(sequences[middle:], edits, run)


def _culprit(error: Exception) -> StepError:
    if isinstance(error, StepError):
        return error
    found = StepError(f"the step failed on this request: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found
