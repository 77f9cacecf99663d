"""Says in shared memory whose rows are in the steps in flight. Knows plans and the marks; runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plait.scheduler.plan import StepPlan
from plait.wire.marks import Marks


class RowMarks:
    """`numbers` are the parent's names of requests, by id. Hot: sequences change little from step to step."""

    def __init__(self, marks: Marks, numbers: Mapping[str, int]) -> None:
        self._marks, self._numbers = marks, numbers
        self._sequences: list[int] = []
        self._of_sequences: list[int] = []

    def planned(self, plan: StepPlan, owner: Callable[[int], tuple[str, int]]) -> None:
        """The plan is about to be run; `owner` tells the request of a sequence."""
        sequences = [planned.sequence for planned in plan.sequences]
        if sequences != self._sequences:
            numbers = self._numbers
            self._sequences = sequences
            self._of_sequences = [numbers[owner(sequence)[0]] for sequence in sequences]
        self._marks.planned(plan.step, self._of_sequences)

    def landed(self, plan: StepPlan) -> None:
        """Its result is taken in."""
        self._marks.landed(plan.step)
