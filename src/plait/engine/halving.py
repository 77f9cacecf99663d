"""Finds, when a step raises, the sequences that make it raise: by halves. Knows plans; runs what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from plait.errors import StepError
from plait.scheduler.plan import PlannedSequence, RowResult

Rows: TypeAlias = list[tuple[RowResult, ...]]
"""The results of each sequence's output rows."""

RunPart: TypeAlias = Callable[[Sequence[PlannedSequence]], Rows]


def run_by_halves(sequences: Sequence[PlannedSequence], run: RunPart) -> list[tuple[RowResult, ...] | StepError]:
    """Run the sequences together; if that raises, each half by itself, and so on. Returns for each sequence its rows,
    or the error that it raises even alone.

    Their KV slots stay reserved, and running a row again writes the same values, so nothing is lost. The step's edits
    must have been done before, once: a page that was copied may have been given to another sequence of the same step,
    whose rows have overwritten it when the step is run again.
    """
    try:
        return list(run(sequences))
    except Exception as error:
        if len(sequences) == 1:
            return [StepError.of(error)]
    middle = len(sequences) // 2
    return run_by_halves(sequences[:middle], run) + run_by_halves(sequences[middle:], run)
