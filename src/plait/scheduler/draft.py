"""A step plan while it is being made. Knows the plan's records; knows no policy and no pages."""

from __future__ import annotations

from dataclasses import dataclass, field

from plait.cache.edits import GroupEdits
from plait.scheduler.plan import FromStep, PlannedSampling, PlannedSequence, StepPlan
from plait.scheduler.policy import OUTPUT_WEIGHT
from plait.scheduler.request import ENDED, Sample
from plait.scheduler.sequences import Slots, Tables
from plait.types import TokenId


@dataclass(slots=True)
class Draft:
    """`budget` tokens are left; `outputs` rows draw so far; `recomputed` of the prompt tokens are computed again."""

    step: int
    budget: int
    sequences: list[PlannedSequence] = field(default_factory=list)
    outputs: int = 0
    prompt_tokens: int = 0
    recomputed: int = 0

    def add(self, sample: Sample, slots: Slots, tables: Tables) -> None:
        """Plan the sample's next rows, one for each slot, and its draw if they reach the end of its tokens."""
        assert sample.sequence is not None
        request, count, first = sample.request, len(slots[0]), sample.planned
        if first < request.prompt_length or first + 1 < sample.total:
            self.prompt_tokens += count
            again = max(0, min(first + count, sample.computed) - first)
            self.recomputed += again
            request.account.tokens += count - again
        tokens = sample.next_tokens(count)
        sample.planned += count
        sample.in_flight += 1
        looks = request.looks_at(sample, first, count) if request.looks else ()
        self.outputs += len(looks)
        draws = tuple([(count - 1, sampling) for sampling in self._draws(sample)])
        self.sequences.append(PlannedSequence(sample.sequence, tokens, first, tables, slots, looks + draws))
        self.budget -= count

    def add_guess(self, sample: Sample, slots: Slots, tables: Tables, guess: tuple[TokenId, ...]) -> None:
        """Plan the row of a sample that decodes, whose tokens are all known, and a row for each guessed token. Nothing
        more of the sample can be planned until the step is in."""
        assert sample.sequence is not None
        first, request = sample.planned, sample.request
        known = [*sample.tokens, *guess]
        outputs = tuple(
            (row, request.sampling(sample, known[: first + 1 + row], first + 1 + row)) for row in range(len(guess) + 1)
        )
        tokens = tuple(known[first:])
        self.sequences.append(PlannedSequence(sample.sequence, tokens, first, tables, slots, outputs, len(guess)))
        sample.drawing.append(FromStep(self.step, self.outputs))
        sample.planned += len(tokens)
        sample.guessed = len(guess)
        sample.ahead = 0
        sample.in_flight += 1
        request.account.tokens += OUTPUT_WEIGHT
        self.outputs += len(outputs)
        self.budget -= len(tokens)

    def _draws(self, sample: Sample) -> list[PlannedSampling]:
        request, position = sample.request, sample.total
        if sample.planned < position or position >= request.limit:
            return []
        drawers = [sample] if request.drawn or request.streams else [s for s in request.samples if s.phase is not ENDED]
        request.drawn = True
        request.account.tokens += OUTPUT_WEIGHT * len(drawers)
        draws = [request.sampling(one, sample.tokens, position) for one in drawers]
        sample.drawing.append(FromStep(self.step, self.outputs + drawers.index(sample)))
        self.outputs += len(draws)
        if not request.stepwise:
            sample.ahead = request.limit - position - 1  # it decodes from now on
        return draws

    def finish(self, edits: tuple[GroupEdits, ...]) -> StepPlan:
        return StepPlan(self.step, tuple(self.sequences), edits, self.prompt_tokens)
