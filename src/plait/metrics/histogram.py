"""Counting values into fixed buckets. Plain Python; knows no metric by name."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HistogramData:
    """`counts[i]` values lie in (bounds[i-1], bounds[i]]; the last count is of those above all bounds. `sum` of all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        return sum(self.counts)

    def minus(self, earlier: HistogramData) -> HistogramData:
        """What came after `earlier`, an older state of the same histogram."""
        counts = tuple(now - then for now, then in zip(self.counts, earlier.counts, strict=True))
        return HistogramData(self.bounds, counts, self.sum - earlier.sum)

    def quantile(self, q: float) -> float:
        """An estimate of the value that the share `q` does not exceed, linear within a bucket; 0 with no values. Above
        the last bound it is that bound."""
        wanted, seen, low = q * self.count, 0.0, 0.0
        if not self.count:
            return 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and seen + count >= wanted:
                return low + (bound - low) * max(wanted - seen, 0.0) / count
            seen, low = seen + count, bound
        return self.bounds[-1]


class Histogram:
    """A histogram that grows. `bounds` ascend."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` over."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def data(self) -> HistogramData:
        return HistogramData(self._bounds, tuple(self._counts), self._sum)


def log_buckets(low: float, high: float, per_decade: int) -> tuple[float, ...]:
    """Bounds from `low` to `high` at equal ratios, rounded to two digits or so."""
    bounds, number = [], 0
    while True:
        bound = float(f"{low * 10 ** (number / per_decade):.3g}")
        bounds.append(bound)
        if bound >= high:
            return tuple(bounds)
        number += 1
