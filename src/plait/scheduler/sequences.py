"""The samples that hold KV memory, and the prompts kept for forks: the scheduler's side of the cache.

Knows the cache's bookkeeping; decides nothing about who runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TypeAlias

from plait.cache.edits import GroupEdits
from plait.cache.kv import CacheStats, KVCache
from plait.scheduler import policy
from plait.scheduler.request import Request, Sample

Slots: TypeAlias = tuple[tuple[int, ...], ...]
Tables: TypeAlias = tuple[tuple[tuple[int, int, int], ...], ...]


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
        self._groups = range(len(cache.config.num_pages))
        self._ids = itertools.count()

    @property
    def capacity(self) -> int:
        """Tokens that fit if one sequence has all pages. Page 0 is reserved."""
        return (min(self._cache.config.num_pages) - 1) * self._page_size

    def cache_stats(self) -> CacheStats:
        return self._cache.stats()

    # --- a sample's sequence --------------------------------------------------------------------------------------

    def open(self, sample: Sample) -> None:
        """Give the sample a sequence, with what there is of its tokens: a fork of its prompt, or what is cached. At
        least the last token is left to compute."""
        sequence, request = next(self._ids), sample.request
        if request.base is not None and sample.index in request.heirs:
            self._cache.fork(request.base, sequence)
        else:
            self._cache.open(sequence, sample.tokens, request.engine_request.salt, self._reuse)
        sample.sequence, sample.planned = sequence, self._cache.length(sequence)
        self.by_id[sequence] = sample

    def close(self, sample: Sample) -> None:
        """Give back the sample's pages, but for what the radix tree keeps."""
        if sample.sequence is not None:
            self._cache.close(sample.sequence)
            del self.by_id[sample.sequence]
            self.departures += 1
        sample.sequence, sample.planned = None, 0

    def reserve(self, sample: Sample, count: int) -> tuple[Slots, Tables] | None:
        """Slots for the sample's next `count` tokens, and its page tables with them; None if there is no room."""
        assert sample.sequence is not None
        slots = self._cache.reserve(sample.sequence, count)
        if slots is None:
            return None
        return slots, tuple(self._cache.table(sample.sequence, group) for group in self._groups)

    def commit(self, sample: Sample, first: int, count: int) -> None:
        """`count` tokens of the sample from index `first` on, those of them that it still has, are computed."""
        assert sample.sequence is not None
        self._cache.commit(sample.sequence, tuple(sample.tokens[first : first + count]))

    def take_edits(self) -> tuple[GroupEdits, ...]:
        return self._cache.take_edits()

    def has_room(self, sample: Sample, running: Iterable[Sample]) -> bool:
        """Whether all of the sample's tokens fit beside what the running ones still have to put in, with head-room."""
        others = [s for s in running if s is not sample]
        needs = [
            self._cache.pages_needed(s.sequence, s.wanted)
            for s in (sample, *others)
            if s.sequence is not None and s.wanted
        ]
        spare = policy.head_room(len(others))
        return all(sum(need[g] for need in needs) + spare <= self._cache.available(g) for g in self._groups)

    # --- prompts kept for forks -----------------------------------------------------------------------------------

    def keep_base(self, lead: Sample, heirs: list[Sample]) -> None:
        """The prompt is computed: keep its pages for the samples that start from it, until each has its fork."""
        assert lead.sequence is not None
        request = lead.request
        request.base = next(self._ids)
        request.heirs = {heir.index for heir in heirs}
        self._cache.fork(lead.sequence, request.base)
        self._cache.truncate(request.base, request.prompt_length)

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
            request.base = None
            request.heirs.clear()

    # --- shared prefixes ------------------------------------------------------------------------------------------

    def prefix_is_coming(self, sample: Sample, running: Iterable[Sample]) -> bool:
        """Whether the sample had better wait for pages that an older running sequence is about to compute."""
        if not self._reuse or sample.index in sample.request.heirs:
            return False
        coming = max((self._shared_soon(sample, other) for other in running), default=0)
        if coming == 0:
            return False
        cached = self._cache.cached_prefix(sample.tokens, sample.request.engine_request.salt)
        return policy.worth_waiting(coming - cached, len(sample.tokens) - cached)

    def _shared_soon(self, sample: Sample, other: Sample) -> int:
        """Tokens of whole pages that `other`, if older, will have in common with `sample`; 0 if it has them now."""
        mine, theirs = sample.request.engine_request, other.request.engine_request
        assert other.sequence is not None
        committed = self._cache.committed(other.sequence)
        if other.order > sample.order or committed >= len(theirs.prompt) or mine.salt != theirs.salt:
            return 0
        common = min(policy.common_prefix(sample.tokens, other.tokens), len(sample.tokens) - 1)
        common -= common % self._page_size
        return common if common > committed else 0

    # --- invariants -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Verify the invariants; raises `AssertionError`."""
        for sequence, sample in self.by_id.items():
            assert sample.sequence == sequence
            assert self._cache.length(sequence) == sample.planned <= sample.total
        self._cache.check()
