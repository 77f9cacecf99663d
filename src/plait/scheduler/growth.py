"""How much the running samples are expected to grow: the head-room that an admission leaves them.

Knows samples' tokens and answers' lengths; knows no pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from plait.scheduler import policy
from plait.scheduler.lengths import OutputLengths, left
from plait.scheduler.request import Sample

Future: TypeAlias = tuple[int, int]
"""Tokens that a sample is expected to generate from now on, and those it has generated."""


class Growth:
    """The futures of the `running` samples, found once for all who ask to be let in while one step is planned: nothing
    but admissions changes them meanwhile. They are looked at when somebody asks for the first time."""

    __slots__ = ("_expected", "_futures", "_lengths", "_running")

    def __init__(self, lengths: OutputLengths, running: Sequence[Sample]) -> None:
        self._lengths, self._running = lengths, running
        self._expected: dict[tuple[str, int], float] = {}
        self._futures: list[Future] | None = None

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
