"""Who is let in, and who gives way: the queue, the running samples, and the pages between them.

Knows requests, the queue's order and how much memory there is; knows no plan and no results.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from operator import attrgetter

from plait.scheduler import policy
from plait.scheduler.counters import Counters
from plait.scheduler.growth import Growth
from plait.scheduler.lengths import OutputLengths
from plait.scheduler.limits import Limits
from plait.scheduler.request import ENDED, LEAVING, PENDING, RUNNING, WAITING, Sample
from plait.scheduler.sequences import Sequences
from plait.scheduler.waiting import WaitingQueue
from plait.types import EngineRequest, Priority

ORDER = attrgetter("order")
RETRY_STEPS = 16
"""Steps after which a request that found no room looks again, though nobody has left meanwhile."""
GUESSING_SHARE = 4
"""Steps are not overlapped while one in so many samples, or more, has a guess."""
MOST_SEEN = 10_000
"""First pages that are remembered, to tell that prompts do share prefixes."""
MOST_PASSED = 256
"""Waiting samples in one step that are passed over because another computes their prompt."""


class Admission:
    """`running` are the samples that take part in steps, by arrival; `waiting` those that will. `ready` is asked before
    one is let in: where it says False, others go first, and it is asked again."""

    def __init__(
        self, sequences: Sequences, counters: Counters, ready: Callable[[EngineRequest], bool] | None = None
    ) -> None:
        self._ready = ready
        self.held_back = False  # a sample that was not ready, in the step planned last
        self.sequences = sequences
        self.counters = counters
        self.waiting = WaitingQueue()
        self.running: list[Sample] = []
        self._longest = 0  # tokens of their answers if none ends before its limit: no peak is higher
        self.lengths = OutputLengths()
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._refused: tuple[Sample, int, int] | None = None  # who found no room, at which step, after how many left

    def enqueue(self, sample: Sample, *, returning: bool = False) -> None:
        sample.phase = WAITING
        sample.level = sample.request.priority
        sample.forget_who_waits()
        self.waiting.add(sample, returning=returning, cached=self.sequences.cached(sample))

    @property
    def guessing(self) -> bool:
        """Whether so many of the running samples have a guess that a step had better wait for them."""
        guessing = sum(1 for sample in self.running if sample.guess)
        return guessing > 0 and GUESSING_SHARE * guessing >= len(self.running)

    # --- letting in -----------------------------------------------------------------------------------------------

    def admit(self, limits: Limits, budget: int, prompts: list[Sample], step: int, now: float) -> None:
        """Let waiting samples in, in order, while there are places, pages and budget, and append them to `prompts`,
        those that are running and have prompts to compute.

        One whose prefix a running sequence is just computing is passed over, and lends that one its class until it
        finds those pages in the cache. The first one without room ends it, so that it is not starved by smaller ones.
        """
        promise = limits.promise
        behind: list[Sample] = []
        for sample in prompts:
            if promise is not None and sample.is_late(promise, now):
                behind.append(sample)
            else:
                budget -= policy.first_share(sample.wanted, budget, True)
        growth = Growth(self.lengths, self.sequences, self.running, prompts)
        passed = urgent = 0  # those that could not run in this step; of them, those above the background
        self.held_back = False
        for sample in self.waiting.ordered(now, promise):
            if behind and promise is not None and sample.is_late(promise, now):
                for begun in behind:  # the late that have begun go before the late that have not
                    budget -= policy.first_share(begun.wanted, budget, True)
                behind = []
            if budget <= 0 or passed >= MOST_PASSED:
                return
            if sample.request.priority >= Priority.BACKGROUND and self._wanted(sample, urgent, limits.places):
                return
            if self.sequences.coming_from(sample) is not None:
                sample.lend(_risen(sample, now))
                passed += 1
                urgent += sample.request.priority < Priority.BACKGROUND
                continue
            if len(self.running) >= limits.places:
                return
            if not self._is_ready(sample):
                self.held_back = True
                passed += 1
                urgent += sample.request.priority < Priority.BACKGROUND
                continue
            if not self._open(sample, growth, step):
                return
            sample.level = _risen(sample, now)
            prompts.append(sample)
            budget -= policy.first_share(sample.wanted, budget, True)

    def _wanted(self, sample: Sample, urgent: int, places: int) -> bool:
        """Whether the place that a background request would take is wanted soon by one of the `urgent` ones, which
        could not run in this step: one place a step can be taken back for them, and is lent till then, but not to a
        sample that gave way so often that it does not any more."""
        if sample.protected:
            return urgent > 0 and len(self.running) + urgent >= places
        return bool(self.running) and len(self.running) + urgent > places

    def _is_ready(self, sample: Sample) -> bool:
        return self._ready is None or self._ready(sample.request.engine_request)

    def _open(self, sample: Sample, growth: Growth, step: int) -> bool:
        """Give a waiting sample a sequence, if there is room for it."""
        alone = not self.sequences.by_id
        if self._refused is not None and not alone:
            who, since, departures = self._refused
            if who is sample and departures == self.sequences.departures and step < since + RETRY_STEPS:
                return False
        self._refused = None
        self.sequences.open(sample)
        if not alone and not self._find_room(sample, growth):
            self.sequences.close(sample)
            self._refused = (sample, step, self.sequences.departures)
            return False
        self.waiting.remove(sample)
        sample.phase = RUNNING
        if not self.running or self.running[-1].order < sample.order:
            self.running.append(sample)
        else:
            insort(self.running, sample, key=ORDER)
        self._longest += sample.longest
        growth.add(sample)
        self.sequences.leave_base(sample)
        if sample.cached_tokens is None:
            sample.cached_tokens = min(sample.planned, sample.request.prompt_length)
            self._count(sample)
        return True

    def _count(self, sample: Sample) -> None:
        """A sample is begun. Its first page was seen before, or will be known the next time."""
        counters, length = self.counters, sample.request.prompt_length
        counters.prompt_tokens += length
        counters.cached_tokens += min(sample.planned, length)
        head = hash(self.sequences.head(sample))
        if head in self._seen:
            counters.seen_tokens += length
            self._seen.move_to_end(head)
        else:
            self._seen[head] = None
            if len(self._seen) > MOST_SEEN:
                self._seen.popitem(last=False)

    def _find_room(self, sample: Sample, growth: Growth) -> bool:
        """Whether there is room for the sample, once pins have gone for it; a background request leaves them alone."""
        while not self._has_room(sample, growth):
            if sample.request.priority >= Priority.BACKGROUND or not self.sequences.pins.drop_one():
                return False
            growth.look_again()
        return True

    def _has_room(self, sample: Sample, growth: Growth) -> bool:
        """Whether all of the sample's tokens fit beside what the running ones still have to put in, with head-room for
        what they are expected to generate. One that gave way often must fit at its longest."""
        if sample.protected:
            guarded = [other for other in self.running if other.protected]
            if not self.sequences.longest_fit([*guarded, sample]):
                return False
        needed, fit, running = growth.pages(sample), self.sequences.fit, len(self.running)
        return fit(needed, self._longest + sample.longest, running) or fit(needed, growth.peak(sample), running)

    # --- giving way -----------------------------------------------------------------------------------------------

    def yield_place(self, places: int, now: float, promise: policy.Promise | None = None) -> None:
        """If all places are taken and the first that waits is of a higher class than one that runs, that one gives its
        place to it. To be called before a step is planned, as a plan has no more sequences than places."""
        if len(self.running) != places:
            return
        lowest = max([s.level for s in self.running])
        if not lowest:
            return
        first = next(
            (
                s
                for s in islice(self.waiting.ordered(now, promise), MOST_PASSED)
                if not self.sequences.coming_from(s) and self._is_ready(s)
            ),
            None,
        )
        if first is None or first.request.priority >= lowest:
            return
        below = [s for s in self.running if s.urgency > first.request.priority and not s.protected]
        if below:
            self.preempt(self._cheapest(below))

    def make_room(self, sample: Sample) -> bool:
        """Let go of pages so that `sample` can go on. False if it must wait, because it gave way itself or because
        the pages of those who leave are in use by the step in flight."""
        if self.sequences.pins.drop_one() or self.sequences.drop_a_base():
            return True
        if len(self.sequences.by_id) > len(self.running):
            return False
        assert len(self.running) > 1, "a sequence that is alone found no room"
        victim = self._cheapest([s for s in self.running if not s.protected] or self.running)
        return self.preempt(victim) and victim is not sample

    def _cheapest(self, candidates: list[Sample]) -> Sample:
        """Of the least urgent ones, the one that loses least, but some; the last to arrive if several do."""
        lowest = max(s.urgency for s in candidates)
        ranked = [
            ((*self.sequences.loss(s), -s.request.arrival, -s.index), s) for s in candidates if s.urgency == lowest
        ]
        return min(ranked, key=lambda pair: pair[0])[1]

    def preempt(self, sample: Sample) -> bool:
        """Take a running sample's sequence away. True if its pages are free at once."""
        self.counters.preemptions += 1
        sample.preempted += 1
        sample.computed = max(sample.computed, sample.planned)
        self.leave(sample)
        sample.ahead = 0
        sample.phase = LEAVING
        return self.settle(sample)

    def leave(self, sample: Sample) -> None:
        """A running sample runs no more."""
        self.running.remove(sample)
        self._longest -= sample.longest

    def settle(self, sample: Sample) -> bool:
        """Release the sequence of a sample that leaves or has ended, unless a step in flight uses it."""
        if sample.in_flight or sample.phase not in (LEAVING, ENDED):
            return False
        self.sequences.close(sample)
        if sample.phase is LEAVING:
            self.enqueue(sample, returning=True)
        return True

    def check(self, samples: list[Sample]) -> None:
        """Verify the invariants; raises `AssertionError`."""
        self.waiting.check()
        for sample in samples:
            assert sample.awaited is None or sample.phase is WAITING, "it waits for pages, but not in the queue"
            assert sample.lent == min([sample.request.priority, *sample.awaited_by.values()]), "what is lent"
            assert not sample.awaited_by or sample.phase not in (PENDING, WAITING), "lent to one that waits"
        assert set(self.waiting) == {s for s in samples if s.phase is WAITING}
        assert self.running == sorted((s for s in samples if s.phase is RUNNING), key=ORDER)
        assert self._longest == sum(s.longest for s in self.running)
        assert all(s.preempted <= policy.MAX_PREEMPTIONS for s in samples), "a protected sample gave way"
        assert self.sequences.longest_fit([s for s in self.running if s.protected]) or len(self.running) == 1


def _risen(sample: Sample, now: float) -> int:
    """A waiting sample's class after ageing, the highest for one that is overdue."""
    return max(0, policy.level(sample.request.priority, now - sample.request.arrived))
