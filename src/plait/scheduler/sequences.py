"""The samples that hold KV memory, and the prompts kept for forks: the scheduler's side of the cache.

Knows the cache's bookkeeping; decides nothing about who runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

from plait.cache.edits import GroupEdits
from plait.cache.kv import CacheStats, KVCache
from plait.cache.table import Parted
from plait.scheduler import policy
from plait.scheduler.pins import Pins
from plait.scheduler.plan import FromStep
from plait.scheduler.request import RUNNING, Request, Sample
from plait.types import TokenId

Slots: TypeAlias = tuple[tuple[int, ...], ...]
Head: TypeAlias = tuple[str, tuple[TokenId, ...]]
Tables: TypeAlias = tuple[Parted, ...]


class Sequences:
    """`by_id` are the open sequences of samples. `departures` counts the sequences closed so far: as long as it
    stays, nobody has given pages back."""

    def __init__(self, cache: KVCache, *, reuse: bool) -> None:
        self.by_id: dict[int, Sample] = {}
        self.departures = 0
        self._cache = cache
        self.extend_one = cache.extend_one
        self.commit_one = cache.commit_one
        self._reuse = reuse
        self._page_size = cache.config.page_size
        self._windowed = [window is not None for window in cache.config.windows]
        self._based: dict[int, Request] = {}  # by arrival: those that keep a prompt for forks
        self._filling: dict[Head, list[Sample]] = {}  # running ones whose prompts are not computed yet, by first page
        self._ids = itertools.count()
        self.pins = Pins(cache, self._ids)

    @property
    def capacity(self) -> int:
        """Tokens that fit if one sequence has all pages. Page 0 is reserved."""
        return (min(self._cache.config.num_pages) - 1) * self._page_size

    def cache_stats(self) -> CacheStats:
        return self._cache.stats()

    # --- a sample's sequence --------------------------------------------------------------------------------------

    def cached(self, sample: Sample) -> int:
        """Tokens of a waiting sample that are in memory now."""
        asked = sample.request.engine_request
        reads = self._reads(sample.request)
        return self._cache.cached_prefix(sample.tokens, asked.salt, asked.salt_from) if reads else 0

    def open(self, sample: Sample) -> None:
        """Give the sample a sequence, with what there is of its tokens: a fork of its prompt, or what is cached. At
        least the last token is left to compute."""
        sequence, request = next(self._ids), sample.request
        if request.base is not None and sample.index in request.heirs:
            self._cache.fork(request.base, sequence)
        else:
            asked = request.engine_request
            self._cache.open(sequence, sample.tokens, asked.salt, self._reads(request), asked.salt_from)
        sample.sequence, sample.planned = sequence, self._cache.length(sequence)
        self.by_id[sequence] = sample
        if sample.planned < request.prompt_length and self._writes(request):
            self._filling.setdefault(self.head(sample), []).append(sample)

    def close(self, sample: Sample) -> None:
        """Give back the sample's pages, but for what the radix tree keeps."""
        if sample.sequence is not None:
            self._filled(sample)
            committed = self._cache.committed(sample.sequence)
            self._cache.close(sample.sequence)
            del self.by_id[sample.sequence]
            self.departures += 1
            asked = sample.request.engine_request
            if sample.pinned_until and self._writes(sample.request):
                self.pins.keep(sample.tokens[:committed], asked, sample.pinned_until)
        sample.sequence, sample.planned, sample.ahead = None, 0, 0

    def _reads(self, request: Request) -> bool:
        return self._reuse and request.reads

    def _writes(self, request: Request) -> bool:
        return self._reuse and request.writes

    def reserve(self, sample: Sample, count: int) -> tuple[Slots, Tables] | None:
        """Slots for the sample's next `count` tokens, and its page tables with them; None if there is no room."""
        assert sample.sequence is not None
        slots = self._cache.reserve(sample.sequence, count)
        if slots is None:
            return None
        return slots, self._cache.all_parted(sample.sequence)

    def commit(self, sample: Sample, first: int, count: int, sound: bool = True) -> None:
        """`count` tokens of the sample from index `first` on, those of them that it still has, are computed. Others
        may have them where they are `sound`: what led to a row without a draw is not left to anybody."""
        assert sample.sequence is not None
        request = sample.request
        tokens = sample.tokens[first : first + count]
        self._cache.commit(sample.sequence, tokens, sound and self._writes(request))
        if first < request.prompt_length <= first + count:
            self._filled(sample)
            if sample.awaited_by:
                self._cache.share_tail(sample.sequence)
                sample.forget_who_waits()

    def commit_guess(self, sample: Sample, tokens: tuple[TokenId | FromStep, ...], sound: bool) -> None:
        """These tokens of a row and its guesses are computed; the guesses after them were wrong and are forgotten. For
        `sound` see `commit`."""
        assert sample.sequence is not None
        known = tuple([token for token in tokens if isinstance(token, int)])  # all of them: nothing is in flight
        self._cache.commit(sample.sequence, known, sound and self._writes(sample.request))
        sample.planned -= sample.guessed + 1 - len(tokens)
        sample.guessed = 0
        self._cache.truncate(sample.sequence, sample.planned)

    def take_edits(self) -> tuple[GroupEdits, ...]:
        return self._cache.take_edits()

    def pages_needed(self, sample: Sample) -> tuple[int, ...]:
        """Pages of each group that the sample's tokens still take."""
        assert sample.sequence is not None
        return self._cache.pages_needed(sample.sequence, sample.wanted)

    def shares_tail(self, sample: Sample) -> bool:
        """Whether a sample that was just opened has part of a page from somebody else."""
        return sample.planned % self._page_size > 0

    def fit(self, needed: Sequence[int], growth: int, running: int) -> bool:
        """Whether the pages `needed` can be had in each group, with head-room: for `growth` tokens to come of
        `running` sequences, and a ragged page for each. A window group does not grow."""
        growth = -(-growth // self._page_size)
        for g, windowed in enumerate(self._windowed):
            if needed[g] + running + (0 if windowed else growth) > self._cache.available(g):
                return False
        return True

    def longest_fit(self, samples: list[Sample]) -> bool:
        """Whether these samples would fit into the whole memory all together at their longest."""
        pages = sum(-(-sample.request.limit // self._page_size) + 1 for sample in samples)
        return pages * self._page_size <= self.capacity

    def loss(self, sample: Sample) -> tuple[bool, int]:
        """What it costs to take the sample's pages away: whether none would become free, and the tokens that nobody
        else holds."""
        assert sample.sequence is not None
        lost = self._cache.held_alone(sample.sequence)
        return lost == 0, lost

    # --- prompts kept for forks -----------------------------------------------------------------------------------

    def keep_base(self, lead: Sample, heirs: list[Sample]) -> None:
        """The prompt is computed: keep its pages for the samples that start from it, until each has its fork."""
        assert lead.sequence is not None
        request = lead.request
        request.base = next(self._ids)
        request.heirs = {heir.index for heir in heirs}
        self._cache.fork(lead.sequence, request.base)
        self._cache.truncate(request.base, request.prompt_length)
        self._based[request.arrival] = request

    def leave_base(self, sample: Sample) -> None:
        """The sample has its fork, or needs none any more."""
        sample.request.heirs.discard(sample.index)
        if not sample.request.heirs:
            self.drop_base(sample.request)

    def drop_base(self, request: Request) -> None:
        """Let go of a kept prompt; samples that still want it will look in the cache."""
        if request.base is not None:
            self._cache.close(request.base)
            self.departures += 1
            del self._based[request.arrival]
            request.base = None
            request.heirs.clear()

    def drop_a_base(self) -> bool:
        """Let go of the kept prompt that was the last to be kept; False if there is none."""
        if not self._based:
            return False
        self.drop_base(self._based[next(reversed(self._based))])
        return True

    # --- shared prefixes ------------------------------------------------------------------------------------------

    def coming_from(self, sample: Sample) -> Sample | None:
        """The running sample that is about to compute so many of a waiting sample's tokens that it had better wait;
        None if there is none."""
        awaited = sample.awaited
        if awaited is not None:
            if self._is_coming(awaited, sample.awaited_tokens):
                return awaited
            if awaited.request.prompt_length - sample.awaited_tokens <= self._page_size:
                sample.awaited = None  # its pages have come, and that prompt is to be done with, too
            else:
                sample.go_away()
        request = sample.request
        if not self._filling or sample.index in request.heirs or not self._reads(request):
            return None
        best, coming = None, 0
        tokens, size, committed = sample.tokens, self._page_size, self._cache.committed  # hot: for each pair of them
        for other in self._filling.get(self.head(sample), ()):
            if other.sequence is None:
                continue
            # Most of many that share a beginning part before a whole page beyond what is known to be common or computed
            # already, and comparing all of it each time would take longer than a step.
            known = max(coming, committed(other.sequence))
            start = known - known % size
            if tokens[start : start + size] != other.tokens[start : start + size]:
                continue
            common = self._common(sample, other)
            if common > coming and self._is_coming(other, common):
                best, coming = other, common
        if best is None:
            return None
        cached = self.cached(sample)
        if not policy.worth_waiting(coming - cached, len(sample.tokens) - cached):
            return None
        sample.wait_for(best, coming)
        return best

    def _is_coming(self, other: Sample, tokens: int) -> bool:
        """Whether `other` is still to compute the first `tokens` of its tokens."""
        return other.phase is RUNNING and other.sequence is not None and self._cache.committed(other.sequence) < tokens

    def _common(self, sample: Sample, other: Sample) -> int:
        """Tokens of whole pages that the two can share once `other` has computed its prompt."""
        common = policy.common_prefix(sample.tokens, other.tokens)
        common = min(common, len(sample.tokens) - 1, other.request.prompt_length)
        mine, theirs = sample.request.engine_request, other.request.engine_request
        if (mine.salt, mine.salt_from) != (theirs.salt, theirs.salt_from):
            common = min(common, *(request.salt_from for request in (mine, theirs) if request.salt), common)
        return common - common % self._page_size

    def head(self, sample: Sample) -> Head:
        """Two samples that share a page have this in common."""
        head = sample.head
        if head is None:
            request = sample.request.engine_request
            salt = "" if request.salt_from >= self._page_size else request.salt
            head = salt, tuple(sample.tokens[: self._page_size])
            if len(sample.tokens) >= self._page_size:
                sample.head = head
        return head

    def _filled(self, sample: Sample) -> None:
        """The sample's prompt is computed, or will not be."""
        head = self.head(sample)
        others = self._filling.get(head)
        if others is not None and sample in others:
            others.remove(sample)
            if not others:
                del self._filling[head]

    # --- invariants -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Verify the invariants; raises `AssertionError`."""
        for sequence, sample in self.by_id.items():
            assert sample.sequence == sequence
            assert self._cache.length(sequence) == sample.planned <= sample.total + sample.guessed
            if sample.ahead and sample.phase is RUNNING:
                assert sample.ahead == sample.request.limit - sample.total > 0
                assert sample.planned + 1 == sample.total > sample.request.prompt_length
        self.pins.check()
        self._cache.check()
