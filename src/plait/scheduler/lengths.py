"""How long answers will be: running quantiles of the lengths seen. Knows numbers only."""

from __future__ import annotations

from math import log2

QUANTILE = 0.75
UNKNOWN_TOKENS = 256
"""An answer's expected length before any was seen."""
ENOUGH = 4
"""Answers of a tenant and class after which its own estimate counts, not that of all."""
MOST_KEYS = 10_000


class RunningQuantile:
    """An estimate of a quantile from one value after the other: a step up or down in the logarithm for each."""

    __slots__ = ("_log", "count")

    def __init__(self) -> None:
        self.count = 0
        self._log = 0.0

    def see(self, value: int) -> None:
        at = log2(max(value, 1))
        self.count += 1
        if self.count == 1:
            self._log = at
            return
        step = max(0.1, 1 / self.count)
        self._log += step * (QUANTILE if at > self._log else QUANTILE - 1)

    @property
    def value(self) -> float:
        return float(2**self._log)


class OutputLengths:
    """Lengths of ended answers, by tenant and class, and of all together."""

    def __init__(self) -> None:
        self._all = RunningQuantile()
        self._by_key: dict[tuple[str, int], RunningQuantile] = {}

    def see(self, tenant: str, priority: int, length: int) -> None:
        """An answer came to its own end after `length` tokens."""
        key = (tenant, priority)
        if key not in self._by_key and len(self._by_key) >= MOST_KEYS:
            del self._by_key[next(iter(self._by_key))]
        self._by_key.setdefault(key, RunningQuantile()).see(length)
        self._all.see(length)

    def expected(self, tenant: str, priority: int) -> float:
        """The length of an answer, before anything is known of it."""
        own = self._by_key.get((tenant, priority))
        estimate = own if own is not None and own.count >= ENOUGH else self._all
        return estimate.value if estimate.count else UNKNOWN_TOKENS


def left(expected: float, made: int, most: int) -> int:
    """Tokens still to come of an answer of an `expected` length that has `made` so far and may have `most` more. One
    that outgrew the estimate is taken for half as long again."""
    more, half = expected - made, made // 2
    return min(int(more if more > half else half) or 1, most)
