"""Finds stop strings in a text that arrives in parts, and holds back what may turn out to be the start of one.

Knows text only. The end does not depend on how the text was divided: the stop string that is complete first ends it,
the longest of those that are complete at the same character.
"""

from __future__ import annotations

from collections.abc import Sequence

from plait.errors import RequestError


class StopChecker:
    """Push the text of one token at a time: the push that reports a hit is then the token at which the sample ends."""

    def __init__(self, stop: Sequence[str]) -> None:
        """Raises `RequestError` for an empty stop string."""
        if isinstance(stop, str):
            raise RequestError("stop is one string; give a list of strings")
        if "" in stop:
            raise RequestError("a stop string is empty; give at least one character, or leave it out")
        self._stops = tuple(stop)
        self._begins = frozenset(text[0] for text in stop)
        self._held = ""
        self.hit: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that is certainly no part of a stop string, the stop string found or None). Text after a stop string
        is dropped, and so is all that is pushed later."""
        if self.hit is not None:
            return "", self.hit
        if self.passes(text):
            return text, None
        pending = self._held + text
        found = self._first(pending)
        if found is None:
            keep = len(pending) - self._undecided(pending)
            self._held = pending[keep:]
            return pending[:keep], None
        start, self.hit = found
        self._held = ""
        return pending[:start], self.hit

    def passes(self, text: str) -> bool:
        """Whether `text`, coming next, is certainly no part of a stop string: none was found or may have begun before,
        and none begins in it. Pushing it would change nothing."""
        return self.hit is None and not self._held and self._begins.isdisjoint(text)

    def flush(self) -> str:
        """The text ends here: what was held back was no stop string after all."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str) -> tuple[int, str] | None:
        places = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if not places:
            return None
        _, start, stop = min(places)
        return start, stop

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        return max(_overlap(text, stop) for stop in self._stops)


def _overlap(text: str, stop: str) -> int:
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0:
        if stop.startswith(text[start:]):
            return len(text) - start
        start = text.find(stop[0], start + 1)
    return 0
