"""What the running samples are still to take: the pages of their prompts, and the tokens by which they are expected to
grow, which is the head-room that an admission leaves them.

Knows samples' tokens and answers' lengths, and whom to ask for pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from plait.scheduler import policy
from plait.scheduler.lengths import OutputLengths, left
from plait.scheduler.request import RUNNING, Sample
from plait.scheduler.sequences import Sequences

Future: TypeAlias = tuple[int, int]
"""Tokens that a sample is expected to generate from now on, and those it has generated."""


class Growth:
    """The futures of the `running` samples, and the pages of those of them that have `prompts` to compute, found once
    for all who ask to be let in while one step is planned: nothing but admissions changes them meanwhile. They are
    looked at when somebody asks for the first time."""

    __slots__ = ("_departures", "_expected", "_filling", "_futures", "_lengths", "_prompts", "_running", "_sequences")

    def __init__(
        self, lengths: OutputLengths, sequences: Sequences, running: Sequence[Sample], prompts: Sequence[Sample]
    ) -> None:
        self._lengths, self._sequences, self._running, self._prompts = lengths, sequences, running, prompts
        self._expected: dict[tuple[str, int], float] = {}
        self._futures: list[Future] | None = None
        self._filling: list[int] | None = None
        self._departures = 0

    def pages(self, sample: Sample) -> list[int]:
        """Pages of each group that the running prompts and this sample's tokens still take."""
        pages_needed = self._sequences.pages_needed
        own = pages_needed(sample)
        if self._filling is None or self._departures != self._sequences.departures:
            self._departures = self._sequences.departures
            filling = [pages_needed(one) for one in self._prompts if one.phase is RUNNING]  # else it has given way
            self._filling = [sum(of_group) for of_group in zip(*filling, strict=True)] or [0] * len(own)
        return [before + more for before, more in zip(self._filling, own, strict=True)]

    def look_again(self) -> None:
        """Pages were let go of."""
        self._filling = None

    def peak(self, sample: Sample) -> int:
        """The most tokens that the running samples and this one will take beyond what they have now."""
        if self._futures is None:
            self._futures = [self._future(sample) for sample in self._running]
        self._futures.sort()  # they are, but for who was let in since the last time
        return policy.peak_tokens(sorted([*self._futures, self._future(sample)]))

    def add(self, sample: Sample) -> None:
        """The sample has joined those that run."""
        if self._futures is not None:
            self._futures.append(self._future(sample))
        if self._filling is not None:
            # Where a page is shared that is not full, others may have to copy it now: they are asked again.
            self._filling = None if self._sequences.shares_tail(sample) else self.pages(sample)

    def _future(self, sample: Sample) -> Future:
        request = sample.request
        known = len(sample.tokens)
        made, most = known - request.prompt_length, request.limit - known
        if not request.stop_ids:
            return most, made  # nothing but its limit ends it
        key = (request.account.tenant, request.priority)
        expected = self._expected.get(key)
        if expected is None:
            expected = self._expected[key] = self._lengths.expected(*key)
        return left(expected, made, most), made
