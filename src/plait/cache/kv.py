"""`KVCache`, the face of the paged KV bookkeeping: what the scheduler and the memory API ask for, in sequence ids.

Ints only: which slots hold which tokens of which sequence. Knows no model, no arrays, and not when a step runs; it
relies on steps being run in the order in which they were planned, each with the edits that were taken for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plait.cache.check import check_sequences
from plait.cache.config import CacheConfig
from plait.cache.edits import GroupEdits
from plait.cache.memory import Reserved, SequenceMemory
from plait.cache.radix import Salt
from plait.cache.sequence import CacheSequence
from plait.cache.store import PageStore
from plait.cache.table import Entry, PageTable, Parted


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Pages in each group: free, cached (only the radix tree holds them) and held by sequences; and how many pages
    have been evicted, all groups together, since the start."""

    free: tuple[int, ...]
    cached: tuple[int, ...]
    held: tuple[int, ...]
    evictions: int


class KVCache:
    """Pages, sequences and the radix tree.

    The scheduler opens a sequence, reserves slots for its next tokens, plans the step with `table` and `take_edits`,
    and commits the tokens once the step is done; any number of steps may be planned before the first is committed.
    Every step takes its edits. Slots that were reserved for a step and given up again (truncate, close) before its
    edits were taken must not be written by it.

    Two calls between a `reserve` and the `take_edits` of the same step that share what the step has yet to compute
    (`fork`, `seq_cp`) are right but leave a gap in a page: such sequences are no longer cached. Fork first.

    An unknown sequence id is a KeyError in the scheduler's face; the memory API takes it for an empty sequence.
    """

    def __init__(self, config: CacheConfig) -> None:
        self._store = PageStore(config)
        self._sequences: dict[int, CacheSequence] = {}
        self._memory = SequenceMemory(self._store, self._sequences)
        self._page_size = config.page_size
        self._refs = [pool.refs for pool in self._store.pools]
        self._fresh = [pending.fresh for pending in self._store.pending]
        self._first_refs, self._first_fresh = self._refs[0], self._fresh[0]
        self._several = len(self._refs) > 1

    @property
    def config(self) -> CacheConfig:
        return self._store.config

    # --- the scheduler's face: position == index ----------------------------------------------------------------------

    def cached_prefix(self, tokens: Sequence[int], salt: str = "", salt_from: int = 0) -> int:
        """How many leading tokens `open` would take from the tree now: at most len(tokens) - 1, and only as far as
        every group has what it needs. Where hardly a page is left, it takes whole pages only."""
        return self._store.resident(tokens, Salt.of(salt, salt_from, self._page_size))

    def cached_pages(self, tokens: Sequence[int], salt: str = "", salt_from: int = 0) -> tuple[tuple[int, ...], ...]:
        """For each whole page of the resident prefix of `tokens` its page in every group, 0 where a window group gave
        it back."""
        path = self._store.tree.match((*tokens, 0), Salt.of(salt, salt_from, self._page_size))
        return tuple(tuple(node.pages) for node in path)

    def forget(self, tokens: Sequence[int], salt: str = "", salt_from: int = 0) -> int:
        """Drop the resident prefix of `tokens` from its end, as far as no sequence holds it and no other path goes on
        from it; how many tokens."""
        return self._store.tree.forget(tokens, Salt.of(salt, salt_from, self._page_size))

    def open(self, seq: int, tokens: Sequence[int] = (), salt: str = "", reuse: bool = True, salt_from: int = 0) -> int:
        """A new sequence. Holds the longest resident prefix of `tokens` (none where `reuse` is False) and returns its
        length: those tokens are committed, the next to reserve is the one after. A prefix that ends within a page is
        copied by the first `reserve`. Its path is private to `salt`, but for whole pages of its first `salt_from`
        tokens. ValueError if `seq` exists."""
        self._refuse_existing(seq)
        sequence = self._sequences[seq] = self._store.attach(tokens, Salt.of(salt, salt_from, self._page_size), reuse)
        return sequence.committed

    def reserve(self, seq: int, count: int) -> tuple[tuple[int, ...], ...] | None:
        """Slots for the next `count` tokens, one tuple for each group. Evicts cached pages as needed; copies first
        where the last page is shared, or, where there is no page for that, takes it back from the tree. None if there
        is no room: then nothing has changed."""
        sequence = self._sequences[seq]
        if count == 1 and (slots := self._one_more(sequence)):
            return slots
        store = self._store
        if not store.fits(self.pages_needed(seq, count)) and not store.spare_copies(sequence.tables, count):
            return None
        taken = []
        for group, table in enumerate(sequence.tables):
            group_slots, ragged = store.extend(group, (table,), count)
            taken.append(tuple(group_slots))
            if ragged:
                sequence.plain = sequence.cacheable = False
        sequence.grow(count)
        return tuple(taken)

    def _one_more(self, sequence: CacheSequence) -> tuple[tuple[int, ...], ...]:
        """The slots of one more token where every group has room in a page of the sequence's own; else ()."""
        size = self._page_size
        for table, refs in zip(sequence.tables, self._refs):  # noqa: B905 (hot)
            if refs[table.page] != 1 or table.first + table.count >= size:
                return ()
        slots: tuple[tuple[int, ...], ...] = ()
        for table, fresh in zip(sequence.tables, self._fresh):  # noqa: B905 (hot)
            page = table.page
            offset = table.first + table.count
            table.count += 1
            if page not in fresh or fresh[page] > offset:
                fresh[page] = offset
            slots += ((page * size + offset,),)
        if sequence.positions is None:
            sequence.length += 1
        else:
            sequence.grow(1)
        return slots

    def extend_one(self, seq: int) -> tuple[tuple[tuple[int, ...], ...], tuple[Parted, ...]] | None:
        """`reserve` of one token and `all_parted` in one go, the way of a sequence that decodes; None where that takes
        a copy, or a page beside others or of a ragged sequence, or there is no room: then nothing has changed, and
        `reserve` may still do it."""
        sequence = self._sequences[seq]
        if self._several or sequence.positions is not None:
            slots = self._one_more(sequence)
            return (slots, tuple([table.parted() for table in sequence.tables])) if slots else None
        (table,) = sequence.tables  # what follows is `_one_more` for one group, and is what every step does
        page, first, count, size = table.page, table.first, table.count, self._page_size
        offset = first + count
        if offset >= size or not page:
            return self._one_in_a_new_page(sequence, table)
        if self._first_refs[page] != 1:
            return None
        fresh = self._first_fresh
        if page not in fresh or fresh[page] > offset:
            fresh[page] = offset
        table.count = count = count + 1
        sequence.length += 1
        before = table.frozen
        if before is None:
            before = table.before_last()
        return ((page * size + offset,),), ((before, (page, first, count)),)

    def _one_in_a_new_page(
        self, sequence: CacheSequence, table: PageTable
    ) -> tuple[tuple[tuple[int, ...], ...], tuple[Parted, ...]] | None:
        """`extend_one` of a sequence with one group, whose last page is full, or which has none."""
        if not self._store.pools[0].available:
            return None
        page = self._store.take(0)
        self._first_fresh[page] = 0
        table.push(page, 1)
        sequence.length += 1
        return ((page * self._page_size,),), (table.parted(),)

    def commit_one(self, seq: int, token: int) -> None:
        """`commit` of one token that is cacheable."""
        sequence = self._sequences[seq]
        committed = sequence.committed = sequence.committed + 1
        if sequence.cacheable:
            sequence.tail.append(token)
        if committed >= sequence.boundary:
            self._store.settle(sequence)

    def commit(self, seq: int, tokens: Sequence[int], cacheable: bool = True) -> None:
        """The next len(tokens) reserved tokens have been computed, and these are their ids. Whole pages enter the tree;
        where it has the path already, the sequence drops its own page and takes the tree's. After a commit that is not
        `cacheable` no later token of the sequence enters the tree either: what follows depends on it."""
        sequence = self._sequences[seq]
        committed = sequence.committed + len(tokens)
        assert committed <= sequence.length, f"sequence {seq}: {committed} tokens committed, {sequence.length} reserved"
        sequence.committed = committed
        if not cacheable:
            sequence.cacheable = False
        if sequence.cacheable:
            sequence.tail.extend(tokens)
        if committed >= sequence.boundary:
            self._store.settle(sequence)

    def share_tail(self, seq: int) -> None:
        """Let others have the computed tokens of the last page, too, though it is not full. The sequence's next token
        goes to a copy of it: for prompts that somebody waits for."""
        self._store.publish_tail(self._sequences[seq])

    def truncate(self, seq: int, length: int) -> None:
        """Drop all tokens past `length`, reserved or committed (rejected drafts, rollback). ValueError if a window
        group no longer has what the token after them looks at; down to `committed` that cannot happen."""
        sequence = self._sequences[seq]
        if not 0 <= length <= sequence.length:
            raise ValueError(f"sequence {seq} has {sequence.length} tokens; it cannot be truncated to {length}")
        if not self._store.can_shorten(sequence, length):
            raise ValueError(
                f"sequence {seq} cannot go back to {length} tokens: pages outside the window were given back"
            )
        self._store.shorten(sequence, length)

    def fork(self, src: int, dst: int) -> None:
        """`dst`, a new sequence, shares everything `src` has. A last page that is not full is copied by whoever writes
        to it first. ValueError if `dst` exists."""
        self._refuse_existing(dst)
        self._sequences[dst] = self._memory.forked(self._sequences[src])

    def close(self, seq: int) -> None:
        """Forget a sequence. What it has computed stays as cached, as far as it is cacheable."""
        self._store.leave(self._sequences.pop(seq))

    def length(self, seq: int) -> int:
        """Tokens that have slots."""
        return self._sequences[seq].length

    def committed(self, seq: int) -> int:
        """Tokens that have been computed, from the first."""
        return self._sequences[seq].committed

    def table(self, seq: int, group: int = 0) -> tuple[Entry, ...]:
        """Entries (page, first, count) of all tokens that have slots, in order; a window group's table may begin later,
        at a multiple of 64 tokens (`CacheConfig.block_tokens`)."""
        return self._sequences[seq].tables[group].entries()

    def all_parted(self, seq: int) -> tuple[Parted, ...]:
        """`table` of every group, of a sequence that has tokens, the last entry apart; those before it are the same
        object until they change."""
        return tuple([table.parted() for table in self._sequences[seq].tables])

    def pages_needed(self, seq: int, count: int) -> tuple[int, ...]:
        """New pages that `reserve` would take, for each group."""
        needed, tables = self._store.pages_needed, self._sequences[seq].tables
        return tuple([needed(g, table, count) for g, table in enumerate(tables)])

    def held_alone(self, seq: int) -> int:
        """Tokens in pages that no other sequence holds: what would have to be computed again, at worst, if this
        sequence were closed and opened again later. The most of any group."""
        most = 0
        for pool, table in zip(self._store.pools, self._sequences[seq].tables, strict=True):
            refs, known = pool.refs, pool.known
            alone = sum(count for page, _, count in table.entries() if refs[page] == 1 + (page in known))
            most = max(most, alone)
        return most

    def available(self, group: int = 0) -> int:
        """Free pages, and those that can be evicted."""
        return self._store.pools[group].available

    def stats(self) -> CacheStats:
        pools = self._store.pools
        return CacheStats(
            free=tuple(pool.num_free for pool in pools),
            cached=tuple(pool.num_cached for pool in pools),
            held=tuple(pool.num_held for pool in pools),
            evictions=self._store.tree.evictions,
        )

    def take_edits(self) -> tuple[GroupEdits, ...]:
        """Copies and repositions that the step planned now must do before anything else, for each group. They are
        handed over: the next call returns only what came after."""
        return self._store.drain()

    def put_back_edits(self, edits: tuple[GroupEdits, ...]) -> None:
        """The step for which these were just taken did not run, or not to its end: the next one does them (again)."""
        self._store.put_back(edits)

    def check(self) -> None:
        """Every invariant; raises AssertionError. Looks at everything: for tests."""
        self._store.check(self._sequences.values())
        check_sequences(self._store, self._sequences)

    def _refuse_existing(self, seq: int) -> None:
        if seq in self._sequences:
            raise ValueError(f"sequence {seq} exists already; close it first, or take another id")

    # --- llama.cpp's memory API ---------------------------------------------------------------------------------------

    def reserve_shared(self, seqs: tuple[int, ...], count: int, first_position: int | None = None) -> Reserved | None:
        """See `SequenceMemory.reserve_shared`."""
        return self._memory.reserve_shared(seqs, count, first_position)

    def restore(self, seq: int, positions: Sequence[int]) -> tuple[tuple[int, ...], ...] | None:
        """See `SequenceMemory.restore`. ValueError if `seq` exists."""
        self._refuse_existing(seq)
        return self._memory.restore(seq, positions)

    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        """See `SequenceMemory.copy`."""
        self._memory.copy(src, dst, p0, p1)

    def seq_rm(self, seq: int, p0: int, p1: int) -> bool:
        """See `SequenceMemory.remove`."""
        return self._memory.remove(seq, p0, p1)

    def seq_keep(self, seq: int) -> None:
        """Forget all other sequences."""
        for other in [s for s in self._sequences if s != seq]:
            self.close(other)

    def seq_add(self, seq: int, p0: int, p1: int, delta: int) -> None:
        """See `SequenceMemory.add`."""
        self._memory.add(seq, p0, p1, delta)

    def seq_div(self, seq: int, p0: int, p1: int, d: int) -> None:
        """See `SequenceMemory.divide`."""
        self._memory.divide(seq, p0, p1, d)

    def seq_pos_min(self, seq: int) -> int:
        """The least position in `seq`, -1 when it is empty."""
        return self._memory.least_position(seq)

    def seq_pos_max(self, seq: int) -> int:
        """The greatest position in `seq`, -1 when it is empty."""
        sequence = self._sequences.get(seq)
        return sequence.next_position - 1 if sequence else -1

    def positions(self, seq: int) -> list[int]:
        """The position of each token of `seq`, in order; none for a sequence that is empty or not there."""
        sequence = self._sequences.get(seq)
        return list(sequence.all_positions()) if sequence else []

    def clear(self) -> None:
        """Forget all sequences, and all that the radix tree knows."""
        self.seq_keep(-1)
        self._store.forget_cached()
