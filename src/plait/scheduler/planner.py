"""The rows of a step: a token of everybody who decodes, and chunks of prompts.

Knows samples, their sequences and who gives way; knows no results.
"""

from __future__ import annotations

from plait.scheduler import policy
from plait.scheduler.admission import Admission
from plait.scheduler.draft import Draft
from plait.scheduler.limits import Limits
from plait.scheduler.plan import FromStep, PlannedSampling, PlannedSequence
from plait.scheduler.policy import OUTPUT_WEIGHT
from plait.scheduler.request import RUNNING, Sample
from plait.scheduler.sequences import Sequences

_new = tuple.__new__
"""Makes a named tuple in a third of the time that its own constructor takes."""


class Planner:
    """Puts the rows of running samples into drafts of plans."""

    def __init__(self, sequences: Sequences, admission: Admission) -> None:
        self._sequences = sequences
        self._admission = admission

    def decode(self, draft: Draft, limits: Limits) -> list[Sample]:
        """Give every running sample that decodes its row; returns those that have prompts to compute. The oldest
        first. This and `Scheduler.commit` are what a step costs: they look up little, and make records without their
        constructors."""
        prompts: list[Sample] = []
        extend_one, rows, step = self._sequences.extend_one, draft.sequences, draft.step
        guesses = limits.guesses(len(self._admission.running))
        budget, outputs = draft.budget, draft.outputs
        for sample in self._admission.running.copy():
            if (
                not sample.ahead
                or not budget
                or (guesses and sample.guess)
                or (sequence := sample.sequence) is None
                or (place := extend_one(sequence)) is None
            ):
                draft.budget, draft.outputs = budget, outputs
                if self._has_prompt(sample, guesses, draft):
                    prompts.append(sample)
                budget, outputs = draft.budget, draft.outputs
                continue
            request, planned, drawing = sample.request, sample.planned, sample.drawing
            slots, tables = place
            following = planned + 1
            if request.tail:
                sampling = request.sampling(sample, sample.tokens, following)
            else:
                sampling = _new(PlannedSampling, (request.params, sample.index, following, (), None, (), None, None))
            token = drawing[-1] if drawing else sample.tokens[planned]
            drawing.append(_new(FromStep, (step, outputs)))
            rows.append(_new(PlannedSequence, (sequence, (token,), planned, tables, slots, ((0, sampling),), 0)))
            request.account.tokens += OUTPUT_WEIGHT
            sample.planned = following
            sample.ahead -= 1
            sample.in_flight += 1
            outputs += 1
            budget -= 1
        draft.budget, draft.outputs = budget, outputs
        return prompts

    def _has_prompt(self, sample: Sample, guesses: int, draft: Draft) -> bool:
        """Whether a running sample has a prompt to compute. If it decodes, its row is planned."""
        request, total = sample.request, sample.total
        if sample.planned < request.prompt_length or sample.planned + 1 < total < request.limit:
            return True
        if sample.planned + 1 != total or total >= request.limit or not draft.budget:
            return False
        if request.stepwise and sample.drawing:
            return False
        if guesses and sample.guess and not sample.drawing and self._place_guess(sample, guesses, draft):
            return False
        self._place(sample, 1, draft)
        return False

    def _place_guess(self, sample: Sample, most: int, draft: Draft) -> bool:
        """Plan the sample's row and its guess, unless it takes somebody else's pages."""
        guess = sample.guess[: min(most, draft.budget - 1)]
        reserved = self._sequences.reserve(sample, 1 + len(guess)) if guess else None
        if reserved is None:
            return False
        draft.add_guess(sample, *reserved, guess)
        return True

    def prefill(
        self, prompts: list[Sample], budget: int, draft: Draft, now: float, promise: policy.Promise | None
    ) -> None:
        """Share the budget among the prompts: the most urgent first, then those that can be in time, then the
        oldest."""
        prompts = [sample for sample in prompts if sample.phase is RUNNING]
        if promise is None:
            prompts.sort(key=lambda sample: (sample.urgency, sample.order))
        else:
            prompts.sort(key=lambda sample: (sample.urgency, sample.is_late(promise, now), sample.order))
        for sample, share in zip(prompts, policy.shares([s.wanted for s in prompts], budget), strict=True):
            if share:
                self._place(sample, min(share, sample.request.longest_chunk), draft)

    def _place(self, sample: Sample, count: int, draft: Draft) -> None:
        """Plan the sample's next rows, if room can be found or made for them, and it has not given way meanwhile."""
        if sample.phase is not RUNNING:
            return
        while (reserved := self._sequences.reserve(sample, count)) is None:
            if not self._admission.make_room(sample):
                return
        draft.add(sample, *reserved)
