"""Who crashed the engine? Requests that were in the step that died, tried again in halves.

A request is a suspect from a crash with rows of it until it gains a token. Suspects are held back but for one half, the
trial, which runs beside everybody else; once all of it have gained a token, the other half is tried. A crash during a
trial narrows it: those in both steps are more suspect than others, and are halved in turn. One that is left over runs
alone, and is convicted if it crashes the engine alone twice in a row. Knows numbers, no requests and no processes.
"""

from __future__ import annotations

from collections.abc import Iterable

ALONE = 2
"""Crashes alone, in a row, that convict."""


class Suspects:
    """`width` is how many are most suspect: what a search narrows; `level` in how many crashes they were since their
    last token. Both are 0 where nobody is suspect."""

    def __init__(self) -> None:
        self.width = self.level = 0
        self._strikes: dict[int, int] = {}  # crashes since the last token
        self._alone: dict[int, int] = {}  # the last of them that it had to itself
        self._trial: set[int] = set()

    def suspects(self, number: int) -> bool:
        return number in self._strikes

    def may_run(self, number: int) -> bool:
        """Whether the request may be with the engine now."""
        if self.exclusive:
            return number in self._trial
        return number not in self._strikes or number in self._trial

    @property
    def exclusive(self) -> bool:
        """Whether the trial is of one alone."""
        return self.width == 1 and self.level > 1

    def crashed(self, numbers: Iterable[int]) -> int | None:
        """The engine crashed in a step with rows of these requests. Returns the one that is convicted, if any."""
        present = set(numbers)
        if len(present) == 1:
            (one,) = present
            times = self._alone.get(one, 0) + 1
            self._alone = {one: times}
            if times >= ALONE:
                self._forget(one)
                self._choose(halves=True)
                return one
        elif present:
            self._alone = {}
        for number in present:
            self._strikes[number] = self._strikes.get(number, 0) + 1
        self._choose(halves=True)
        return None

    def cleared(self, number: int) -> bool:
        """The request gained a token, or has ended. Returns whether others may run now that might not before."""
        if number not in self._strikes:
            return False
        self._forget(number)
        if self._trial:
            return False
        self._choose(halves=False)
        return True

    def _forget(self, number: int) -> None:
        self._strikes.pop(number, None)
        self._alone.pop(number, None)
        self._trial.discard(number)

    def _choose(self, *, halves: bool) -> None:
        """The next trial: of the most suspect the first half, or all of those that are left after one was cleared."""
        most = self.level = max(self._strikes.values(), default=0)
        top = sorted(number for number, strikes in self._strikes.items() if strikes == most)
        self.width = len(top)
        self._trial = set(top[: (len(top) + 1) // 2] if halves else top)

    def check(self) -> None:
        """Verify the invariants; raises `AssertionError`."""
        assert self._trial <= self._strikes.keys()
        assert bool(self._trial) == bool(self._strikes), "suspects wait for nothing"
        assert set(self._alone) <= set(self._strikes)
        assert all(0 < count < ALONE for count in self._alone.values())
