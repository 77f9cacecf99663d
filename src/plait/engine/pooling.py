"""Hidden states of prompts to one vector each: the sum in the order of positions, so chunks and neighbours change no
bit. Knows plans, results and events; knows no model."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from plait.errors import StepError
from plait.scheduler.plan import PooledRow, StepPlan, StepResult
from plait.types import FinishReason, TokenEvent

F64Array: TypeAlias = npt.NDArray[np.float64]


class Pools:
    """The sums so far of the requests that pool. One that gave way and begins again begins its sum again."""

    def __init__(self) -> None:
        self._sums: dict[str, F64Array] = {}

    def take(self, plan: StepPlan, result: StepResult, known: Container[str]) -> None:
        """Add a step's rows, of the requests that are still `known`; steps come in order."""
        if not any(isinstance(use, PooledRow) for planned in plan.sequences for _, use in planned.outputs):
            return
        rows = iter(result.rows)
        for planned in plan.sequences:
            for (at, use), row in zip(planned.outputs, rows, strict=False):
                if isinstance(use, PooledRow) and row.hidden is not None and use.request_id in known:
                    self._add(use.request_id, planned.first_position + at == 0, np.asarray(row.hidden))

    def _add(self, request_id: str, first: bool, hidden: npt.NDArray[np.float32]) -> None:
        known = None if first else self._sums.get(request_id)
        self._sums[request_id] = hidden.astype(np.float64) if known is None else known + hidden

    def finish(self, events: Iterable[TokenEvent]) -> list[TokenEvent]:
        """The events, with an embedding where a request that pools has ended, whose sum is forgotten. A vector that is
        not finite is the error of its request."""
        return [self._finish(event) if event.final and event.request_id in self._sums else event for event in events]

    def _finish(self, event: TokenEvent) -> TokenEvent:
        total = self._sums.pop(event.request_id)
        if event.finish_reason is not FinishReason.STOP:
            return event
        if not np.isfinite(total).all():
            error = StepError("the hidden states of the prompt are not finite: it has no embedding")
            return event._replace(finish_reason=None, error=error)
        return event._replace(embedding=normalised(total))


def normalised(vector: F64Array) -> tuple[float, ...]:
    """The vector at length 1, in float32; zeros stay zeros. (So the mean need not be divided by the count.)"""
    length = float(np.sqrt(np.square(vector).sum()))
    unit = vector / length if length else vector
    return tuple(unit.astype(np.float32).tolist())
