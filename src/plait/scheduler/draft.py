"""A step plan while it is being made. Knows the plan's records; knows no policy and no pages."""

from __future__ import annotations

from dataclasses import dataclass, field

from plait.cache.edits import GroupEdits
from plait.scheduler.plan import FromStep, PlannedSampling, PlannedSequence, StepPlan
from plait.scheduler.request import Phase, Sample
from plait.scheduler.sequences import Slots, Tables


@dataclass(slots=True)
class Draft:
    """`budget` tokens are left; `outputs` rows draw so far."""

    step: int
    budget: int
    sequences: list[PlannedSequence] = field(default_factory=list)
    outputs: int = 0
    prompt_tokens: int = 0

    def add(self, sample: Sample, slots: Slots, tables: Tables) -> None:
        """Plan the sample's next rows, one for each slot, and its draw if they reach the end of its tokens."""
        assert sample.sequence is not None
        count, first = len(slots[0]), sample.planned
        if first < sample.request.prompt_length or first + 1 < sample.total:
            self.prompt_tokens += count
        tokens = sample.next_tokens(count)
        sample.planned += count
        sample.in_flight += 1
        outputs = tuple((count - 1, sampling) for sampling in self._draws(sample))
        self.sequences.append(PlannedSequence(sample.sequence, tokens, first, tables, slots, outputs))
        self.budget -= count

    def _draws(self, sample: Sample) -> list[PlannedSampling]:
        request, position = sample.request, sample.total
        if sample.planned < position or position >= request.limit:
            return []
        drawers = [sample] if request.drawn else [s for s in request.samples if s.phase is not Phase.ENDED]
        request.drawn = True
        draws = [request.sampling(one, sample.tokens, position) for one in drawers]
        sample.drawing.append(FromStep(self.step, self.outputs + drawers.index(sample)))
        self.outputs += len(draws)
        return draws

    def finish(self, edits: tuple[GroupEdits, ...]) -> StepPlan:
        return StepPlan(self.step, tuple(self.sequences), edits, self.prompt_tokens)
