"""The queue: samples that wait for a place, in the order in which they are to be let in.

Knows the order's numbers and samples; knows no pages and no plans. One lane for each tenant and class, sorted
when a sample joins it: age, cached tokens and arrival do not change their order. What does change (classes by ageing,
shares) is the order of the lanes' heads, which is looked at anew when the clock passes into another bucket of age.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import TypeAlias

from plait.scheduler import policy
from plait.scheduler.request import Sample

Entry: TypeAlias = tuple[policy.Rank, Sample]


class Lane:
    """The waiting samples of one tenant and class. `key` is that of the first one, None if it is to be made anew."""

    __slots__ = ("entries", "key", "priority")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.entries: list[Entry] = []
        self.key: policy.Key | None = None


class WaitingQueue:
    """`tokens` are those of the waiting samples together."""

    def __init__(self) -> None:
        self.tokens = 0
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._bucket = -1
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sample]:
        return (sample for lane in self._lanes.values() for _, sample in lane.entries)

    def add(self, sample: Sample, *, returning: bool, cached: int) -> None:
        """A sample joins; `returning` after it had to give way."""
        request = sample.request
        sample.rank = policy.rank(returning, request.arrived, cached, request.arrival, sample.index)
        place = (request.account.tenant, request.priority)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(request.priority)
        insort(lane.entries, (sample.rank, sample))
        lane.key = None
        self._count(sample, 1)

    def remove(self, sample: Sample) -> None:
        request = sample.request
        place = (request.account.tenant, request.priority)
        lane = self._lanes[place]
        at = bisect_left(lane.entries, (sample.rank,))
        assert lane.entries[at][1] is sample, "a waiting sample is not where it should be"
        del lane.entries[at]
        lane.key = None
        if not lane.entries:
            del self._lanes[place]
        self._count(sample, -1)

    def _count(self, sample: Sample, sign: int) -> None:
        self._length += sign
        self.tokens += sign * len(sample.tokens)

    def ordered(self, now: float, promise: policy.Promise | None = None) -> Iterator[Sample]:
        """The samples in order. The one just given may be removed, and others may join, before the next is asked for;
        those who join meanwhile may be left out. With a promise, those of a class that cannot be in time any more come
        behind those that can."""
        if promise is not None:
            yield from _Walk(now, promise).over(self._lanes.values())
            return
        bucket = int(now / policy.AGE_BUCKET_S)
        if bucket != self._bucket:
            self._bucket = bucket
            for lane in self._lanes.values():
                lane.key = None
        heads: list[tuple[policy.Key, Lane, Sample]] = []
        for lane in self._lanes.values():
            head = lane.entries[0][1]
            if lane.key is None:
                lane.key = _key(head, lane, now)
            heads.append((lane.key, lane, head))
        heapify(heads)
        while heads:
            _, lane, sample = heappop(heads)
            rank = sample.rank
            yield sample
            at = bisect_left(lane.entries, (rank,))
            if at < len(lane.entries) and lane.entries[at][1] is sample:
                at += 1
            if at < len(lane.entries):
                follower = lane.entries[at][1]
                heappush(heads, (_key(follower, lane, now), lane, follower))

    def oldest_arrival(self) -> float | None:
        """When the request arrived that has waited longest (to a bucket of age)."""
        arrivals = [lane.entries[0][1].request.arrived for lane in self._lanes.values()]
        return min(arrivals, default=None)

    def check(self) -> None:
        """Verify the invariants; raises `AssertionError`."""
        for (tenant, priority), lane in self._lanes.items():
            assert lane.entries, "an empty lane"
            assert lane.entries == sorted(lane.entries), "a lane out of order"
            for rank, sample in lane.entries:
                assert rank == sample.rank
                assert (sample.request.account.tenant, sample.request.priority) == (tenant, priority)
        assert self._length == sum(1 for _ in self)
        assert self.tokens == sum(len(sample.tokens) for sample in self)


class _Walk:
    """One look at the lanes at the time `now`, by the promise. In a lane stand first those that gave way and those that
    have waited so long that lateness does not count (below `_aged`), then the late (below `_missed`), then those of
    whom some are late because they are long. So two places of a lane are in the heap: who is next of those in time, and
    who is next of the late. The long ones join it as they are passed."""

    def __init__(self, now: float, promise: policy.Promise) -> None:
        self._now, self._promise = now, promise
        self._aged = (1, int((now - policy.AGEING_S) / policy.AGE_BUCKET_S) + 1)
        self._missed = (1, int((now - promise.ttft_s) / policy.AGE_BUCKET_S))
        self._heads: list[tuple[policy.Key, Lane, Sample]] = []

    def over(self, lanes: Iterable[Lane]) -> Iterator[Sample]:
        for lane in lanes:
            self._in_time(lane, 0)
            self._late(lane, bisect_left(lane.entries, (self._aged,)))
        while self._heads:
            key, lane, sample = heappop(self._heads)
            rank = sample.rank
            yield sample
            at = bisect_left(lane.entries, (rank,))
            if at < len(lane.entries) and lane.entries[at][1] is sample:
                at += 1
            if not key[1]:
                self._in_time(lane, at)
            elif rank < self._missed:
                self._late(lane, at)

    def _in_time(self, lane: Lane, at: int) -> None:
        """The next from `at` on that can be in time."""
        entries = lane.entries
        while at < len(entries):
            rank, sample = entries[at]
            if self._aged <= rank < self._missed:
                at = bisect_left(entries, (self._missed,))
                continue
            late = rank >= self._aged and sample.is_late(self._promise, self._now)
            self._push(lane, sample, late)
            if not late:
                return
            at += 1

    def _late(self, lane: Lane, at: int) -> None:
        """The next from `at` on if it has missed its time."""
        if at < len(lane.entries) and lane.entries[at][0] < self._missed:
            self._push(lane, lane.entries[at][1], True)

    def _push(self, lane: Lane, sample: Sample, late: bool) -> None:
        heappush(self._heads, (_key(sample, lane, self._now, late), lane, sample))


def _key(sample: Sample, lane: Lane, now: float, late: bool = False) -> policy.Key:
    request = sample.request
    return policy.key(sample.rank, lane.priority, now - request.arrived, request.account.tokens, late)
