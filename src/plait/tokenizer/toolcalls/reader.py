"""A text that arrives in parts, read by generators: each yields where it cannot decide without more text.

What a generator finds depends on the text alone, not on how it was divided, as long as it asks through these methods.
Positions count from the beginning of the whole text. Knows text only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Sequence
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Scan: TypeAlias = Generator[None, None, T]
"""Yields for more text, and returns what it found."""
_SPACE = re.compile(r"\s*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class Reader:
    """Feed it, then resume the generators that wait."""

    def __init__(self) -> None:
        self.ended = False
        self._text = ""
        self._base = 0

    @property
    def stop(self) -> int:
        """Where the text that is there ends."""
        return self._base + len(self._text)

    def feed(self, text: str) -> None:
        self._text += text

    def end(self) -> None:
        """Nothing follows."""
        self.ended = True

    def release(self, at: int) -> None:
        """Nobody will ask for what is before `at`."""
        self._text = self._text[at - self._base :]
        self._base = at

    def cut(self, start: int, stop: int | None = None) -> str:
        return self._text[start - self._base : None if stop is None else stop - self._base]

    def search(self, pattern: re.Pattern[str], at: int) -> tuple[int, str] | None:
        """(place, text) of the first match in what is there."""
        found = pattern.search(self._text, at - self._base)
        return None if found is None else (self._base + found.start(), found[0])

    # --- waiting for what decides -----------------------------------------------------------------------------------

    def char(self, at: int) -> Scan[str]:
        """The character at `at`; empty at the end."""
        while at >= self.stop and not self.ended:
            yield
        return self.cut(at, at + 1)

    def skip(self, at: int) -> Scan[int]:
        """Behind white space."""
        return (yield from self.run(at, _SPACE))

    def run(self, at: int, pattern: re.Pattern[str]) -> Scan[int]:
        """Behind the longest run of what `pattern` takes character by character."""
        while True:
            found = pattern.match(self._text, at - self._base)
            end = at if found is None else self._base + found.end()
            if end < self.stop or self.ended:
                return end
            yield

    def literal(self, at: int, *words: str) -> Scan[str | None]:
        """Which of `words` is there, the longest one."""
        longest = max(map(len, words), default=0)
        while True:
            there = self.cut(at, at + longest)
            open_ = [word for word in words if len(word) > len(there) and word.startswith(there)]
            if not open_ or self.ended:
                return max((word for word in words if there.startswith(word)), key=len, default=None)
            yield

    def until(self, at: int, word: str) -> Scan[int | None]:
        """Where `word` comes next."""
        seek = at
        while True:
            place = self._text.find(word, seek - self._base)
            if place >= 0:
                return self._base + place
            if self.ended:
                return None
            seek = max(at, self.stop - len(word) + 1)
            yield

    def string(self, at: int) -> Scan[tuple[str, int] | None]:
        """(value, where it ends) of a JSON string."""
        if (yield from self.char(at)) != '"':
            return None
        while (found := _STRING.match(self._text, at - self._base)) is None:
            if self.ended:
                return None
            yield
        try:
            return json.loads(found[0], strict=False), self._base + found.end()
        except ValueError:
            return None


def overlap(text: str, words: Sequence[str]) -> int:
    """Length of the longest end of `text` with which one of `words` begins."""
    most = max(map(len, words), default=0)
    for length in range(min(most, len(text)), 0, -1):
        if any(word.startswith(text[-length:]) for word in words):
            return length
    return 0
