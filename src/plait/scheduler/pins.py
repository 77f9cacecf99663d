"""Sessions kept in memory for a while after their requests. Knows token paths, pages and the time it is told; knows no
requests.

A pin holds the pages of a path as a sequence does, so that they are not evicted. It lasts until its time is over,
unless pages run out first: pins go before anybody who runs has to give way, and those of all sessions together hold
no more than a share of the memory.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from plait.cache.kv import KVCache
from plait.types import EngineRequest, TokenId

PINNED_SHARE = 0.5
"""Of the pages of each group, pins hold at most so many."""


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """One path, held by the cache's sequence `sequence` until `until`. Ordered by what goes first."""

    until: float
    sequence: int


@dataclass(frozen=True, slots=True)
class PinStats:
    """Pages that pins hold now, all groups together; and how many pins have ended since the start, `expired` at their
    time and `dropped` before it."""

    pages: int
    expired: int
    dropped: int


class Pins:
    """`expired` counts the pins whose time was over, `dropped` those that went before."""

    def __init__(self, cache: KVCache, ids: Iterator[int]) -> None:
        self._cache = cache
        self._ids = ids
        self._page_size = cache.config.page_size
        self._pins: list[Pin] = []
        self._groups = range(len(cache.config.num_pages))
        self._bounds = [int(PINNED_SHARE * (pages - 1)) for pages in cache.config.num_pages]
        self._users: list[Counter[int]] = [Counter() for _ in self._groups]  # of each pinned page
        self.expired = self.dropped = 0

    def stats(self) -> PinStats:
        return PinStats(sum(map(len, self._users)), self.expired, self.dropped)

    def __len__(self) -> int:
        return len(self._pins)

    def keep(self, tokens: Sequence[TokenId], asked: EngineRequest, until: float) -> None:
        """Pin what is in memory of `tokens`, instead of what a pin that ends no later has of them. Where that is too
        much beside the others, those that end first go."""
        sequence = next(self._ids)
        self._cache.open(sequence, (*tokens, 0), asked.salt, True, asked.salt_from)  # all of them: one more follows
        pin = Pin(until, sequence)
        for earlier in [other for other in self._pins if other.until <= until and self._covers(pin, other)]:
            self._drop(earlier)
        for group in self._groups:
            self._users[group].update(self._pages(pin, group))
        insort(self._pins, pin)
        while any(len(users) > bound for users, bound in zip(self._users, self._bounds, strict=True)):
            self._drop(next((other for other in self._pins if other is not pin), pin))
            self.dropped += 1

    def expire(self, now: float) -> None:
        """Let go of the pins whose time is over."""
        while self._pins and self._pins[0].until <= now:
            self._drop(self._pins[0])
            self.expired += 1

    def drop_one(self) -> bool:
        """Let go of the pin that ends first; False if there is none."""
        if not self._pins:
            return False
        self._drop(self._pins[0])
        self.dropped += 1
        return True

    def _drop(self, pin: Pin) -> None:
        for group in self._groups:
            users = self._users[group]
            users.subtract(pages := self._pages(pin, group))
            for page in pages:
                if not users[page]:
                    del users[page]
        self._cache.close(pin.sequence)
        self._pins.remove(pin)

    def _covers(self, pin: Pin, other: Pin) -> bool:
        """Whether all whole pages of `other` are pinned by `pin`, too, as with the next turn of a session."""
        whole = [page for page, _, count in self._cache.table(other.sequence) if count == self._page_size]
        return bool(whole) and whole[-1] in self._pages(pin, 0)

    def _pages(self, pin: Pin, group: int) -> list[int]:
        return [page for page, _, _ in self._cache.table(pin.sequence, group)]

    def check(self) -> None:
        """Verify the invariants; raises `AssertionError`."""
        assert self._pins == sorted(self._pins), "pins out of order"
        for group in self._groups:
            users = Counter(page for pin in self._pins for page in self._pages(pin, group))
            assert self._users[group] == users, "pinned pages are not those of the pins"
            assert len(users) <= self._bounds[group], "pins hold more than their share"
