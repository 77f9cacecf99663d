"""The sequence operations, after llama.cpp's memory API: half-open ranges of positions, a negative bound is open.

Works on token indices and table entries; an operation either happens as a whole or raises and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plait.cache.sequence import CacheSequence
from plait.cache.store import PageStore
from plait.cache.table import Entry, PageTable, Span, joined, outside, pieces
from plait.errors import OutOfPagesError


@dataclass(frozen=True, slots=True)
class Reserved:
    """Places for `len(positions)` new tokens. `stores[g]` are (row, slot): row i of the call, 0-based, is stored in
    each slot that is named with it, in group g."""

    positions: tuple[int, ...]
    stores: tuple[tuple[tuple[int, int], ...], ...]


class SequenceMemory:
    """Sequence operations over the sequences of a `KVCache`. A sequence that was edited, or that took part in
    `reserve_shared`, never enters the radix tree and keeps all its pages, in window groups too (later operations may
    bring old tokens back into the window)."""

    def __init__(self, store: PageStore, sequences: dict[int, CacheSequence]) -> None:
        self._store = store
        self._sequences = sequences

    # --- new tokens ---------------------------------------------------------------------------------------------------

    def reserve_shared(self, seqs: tuple[int, ...], count: int, first_position: int | None) -> Reserved | None:
        """Slots for the next `count` tokens of all `seqs` at once; sequences are created on first use. Sequences whose
        tables end at the same slot, and those that end with a full page or are empty, share the new slots; each of the
        others has its own, in which the same rows are stored. None if there is no room: then nothing has changed.

        ValueError if the sequences would continue at different positions, or not at `first_position`; an empty sequence
        may begin anywhere. The tokens count as committed.
        """
        if not seqs or count < 1:
            raise ValueError("reserve_shared needs at least one sequence and one token")
        ids = list(dict.fromkeys(seqs))
        known = [self._sequences.get(seq) or self._store.new_sequence() for seq in ids]
        first = self._first_position(ids, known, first_position)
        clusters = [self._clusters(g, known) for g in self._store.groups]
        needs = [
            sum(self._store.pages_needed(g, tables[0], count, len(tables)) for tables in clusters[g])
            for g in self._store.groups
        ]
        if not self._store.fits(needs):
            return None
        stores = []
        for g in self._store.groups:
            slots = [self._store.extend(g, tables, count)[0] for tables in clusters[g]]
            stores.append(tuple((row, of[row]) for of in slots for row in range(count)))
        for seq, sequence in zip(ids, known, strict=True):
            self._append(sequence, count, first)
            if seq not in self._sequences:
                sequence.passing = True
                self._sequences[seq] = sequence
        return Reserved(tuple(range(first, first + count)), tuple(stores))

    def restore(self, seq: int, positions: Sequence[int]) -> tuple[tuple[int, ...], ...] | None:
        """A new sequence `seq` with tokens at these positions; their slots, for each group. Whoever calls fills them
        before the next step, with no edits waiting. None if there is no room: then nothing has changed."""
        sequence, count = self._store.new_sequence(), len(positions)
        if not self._store.fits([-(-count // self._store.page_size)] * len(self._store.groups)):
            return None
        slots = [tuple(self._store.extend(g, (table,), count)[0]) for g, table in enumerate(sequence.tables)]
        for pending in self._store.pending:
            pending.fresh.clear()
        self._append(sequence, count, 0)
        if list(positions) != list(range(count)):
            sequence.set_positions(list(positions))
        sequence.passing = True
        self._sequences[seq] = sequence
        return tuple(slots)

    def _first_position(self, ids: list[int], known: list[CacheSequence], first_position: int | None) -> int:
        first = known[0].next_position if first_position is None else first_position
        if first < 0:
            raise ValueError(f"first_position is {first}; positions begin at 0")
        for seq, sequence in zip(ids, known, strict=True):
            begins_anywhere = sequence.length == 0 and first_position is not None
            if sequence.next_position != first and not begins_anywhere:
                raise ValueError(
                    f"sequence {seq} continues at position {sequence.next_position}, not at {first}; "
                    "give positions that continue every sequence of the token"
                )
        return first

    def _append(self, sequence: CacheSequence, count: int, first: int) -> None:
        sequence.plain = sequence.cacheable = False
        if sequence.length == 0:
            sequence.positions, sequence.top = [] if first else None, first
        sequence.grow(count)
        sequence.committed = sequence.length

    def _clusters(self, group: int, known: list[CacheSequence]) -> list[list[PageTable]]:
        """Tables that can share new slots: those that end at the same slot, and those that have no room left."""
        size = self._store.page_size
        clusters: dict[tuple[int, int], list[PageTable]] = {}
        for sequence in known:
            table = sequence.tables[group]
            end = table.first + table.count
            clusters.setdefault((table.page, end) if 0 < end < size else (0, 0), []).append(table)
        return list(clusters.values())

    # --- sharing and removing -----------------------------------------------------------------------------------------

    def forked(self, source: CacheSequence) -> CacheSequence:
        """A new sequence that shares everything `source` has."""
        return CacheSequence(
            source.salt,
            self._store.share(source),
            source.boundary,
            source.length,
            source.committed,
            source.plain,
            source.cacheable,
            source.node,
            list(source.tail),
            None if source.positions is None else list(source.positions),
            source.top,
        )

    def copy(self, src: int, dst: int, p0: int, p1: int) -> None:
        """`dst` gets the tokens of `src` in the range, by sharing pages; a shared page is copied by whoever writes to
        it first, so this takes no page. Tokens of `dst` at positions between the least and the greatest copied one are
        replaced. ValueError where a window group of either gave back pages that may be needed."""
        source = self._sequences.get(src)
        spans = source.spans(p0, p1) if source else []
        if source is None or not spans or src == dst:
            return
        target = self._sequences.get(dst)
        if (target is None or target.length == 0) and len(spans) == 1 and spans[0][0] == 0:
            self._copy_beginning(source, dst, spans[0][1])
            return
        target = target or self._store.new_sequence()
        if source.trimmed or target.trimmed:
            raise ValueError(f"cannot copy from sequence {src} to {dst}: pages outside the window were given back")
        copied = [source.all_positions()[i] for low, high in spans for i in range(low, high)]
        least, greatest = min(copied), max(copied)
        old = target.all_positions()
        before = next((i for i, position in enumerate(old) if position > greatest), len(old))
        kept = outside(target.spans(least, greatest + 1), target.length)
        parts = [(target, _clip(kept, 0, before)), (source, spans), (target, _clip(kept, before, len(old)))]
        tables = [[e for part, cut in parts for e in pieces(part.tables[g].entries(), cut)] for g in self._store.groups]
        positions = [part.all_positions()[i] for part, cut in parts for low, high in cut for i in range(low, high)]
        self._replace(target, tables, positions)
        if dst not in self._sequences:
            target.passing = True
            self._sequences[dst] = target

    def _copy_beginning(self, source: CacheSequence, dst: int, length: int) -> None:
        if not self._store.can_shorten(source, length):
            raise ValueError(f"cannot copy the first {length} tokens: pages outside the window were given back")
        target = self.forked(source)
        self._store.shorten(target, length)
        target.passing = True
        self._sequences[dst] = target

    def remove(self, seq: int, p0: int, p1: int) -> bool:
        """Remove the tokens in the range; `seq` < 0 means from all sequences. False if a window group has given back
        pages that what remains would need: then nothing has changed."""
        ids = list(self._sequences) if seq < 0 else [seq] if seq in self._sequences else []
        cuts = [(s, self._sequences[s], self._sequences[s].spans(p0, p1)) for s in ids]
        if not all(self._can_remove(sequence, spans) for _, sequence, spans in cuts):
            return False
        for number, sequence, spans in cuts:
            self._remove(sequence, spans)
            if sequence.length == 0 and sequence.passing:
                del self._sequences[number]
        return True

    def _can_remove(self, sequence: CacheSequence, spans: list[Span]) -> bool:
        if not spans or not sequence.trimmed:
            return True
        return spans[-1][1] == sequence.length and self._store.can_shorten(sequence, spans[0][0])

    def _remove(self, sequence: CacheSequence, spans: list[Span]) -> None:
        if not spans:
            return
        if len(spans) == 1 and spans[0][1] == sequence.length:
            self._store.shorten(sequence, spans[0][0])
            return
        kept = outside(spans, sequence.length)
        old = sequence.all_positions()
        tables = [pieces(table.entries(), kept) for table in sequence.tables]
        self._replace(sequence, tables, [old[i] for low, high in kept for i in range(low, high)])

    def _replace(self, sequence: CacheSequence, tables: list[list[Entry]], positions: list[int]) -> None:
        for g, entries in enumerate(tables):
            self._store.set_entries(g, sequence.tables[g], joined(entries))
        sequence.set_positions(positions)

    # --- moving -------------------------------------------------------------------------------------------------------

    def add(self, seq: int, p0: int, p1: int, delta: int) -> None:
        """Add `delta` to the positions in the range (context shift). Tokens that would get a negative position are
        removed. Shared pages are copied first: `OutOfPagesError` if there is no room for that."""
        if delta:
            self._move(seq, p0, p1, lambda position: position + delta)

    def divide(self, seq: int, p0: int, p1: int, d: int) -> None:
        """Divide the positions in the range by `d`, rounding down. ValueError if `d` < 1; otherwise like `add`."""
        if d < 1:
            raise ValueError(f"positions cannot be divided by {d}; it must be at least 1")
        if d > 1:
            self._move(seq, p0, p1, lambda position: position // d)

    def _move(self, seq: int, p0: int, p1: int, moved: Callable[[int], int]) -> None:
        sequence = self._sequences.get(seq)
        spans = sequence.spans(p0, p1) if sequence else []
        if sequence is None or not spans:
            return
        if sequence.trimmed:
            raise ValueError(f"sequence {seq} cannot be moved: pages outside the window were given back")
        old = sequence.all_positions()
        new = list(old)
        for low, high in spans:
            new[low:high] = map(moved, old[low:high])
        if new == old:
            return
        stays = _runs([position >= 0 for position in new])
        changes = _runs([position >= 0 and position != was for position, was in zip(new, old, strict=True)])
        shared = [self._shared(g, sequence, changes) for g in self._store.groups]
        if not self._store.fits(map(len, shared)):
            raise OutOfPagesError(
                f"moving positions of sequence {seq} copies {max(map(len, shared))} shared pages, and there is no room "
                "for them; close a sequence, or make the KV memory larger"
            )
        tables = [self._own(g, sequence, stays, changes, shared[g], new) for g in self._store.groups]
        self._replace(sequence, [entries for entries, _ in tables], [position for position in new if position >= 0])
        for g, (_, taken) in enumerate(tables):
            for page in taken:
                self._store.pools[g].drop(page)  # the table holds them now

    def _shared(self, group: int, sequence: CacheSequence, changes: list[Span]) -> set[int]:
        """Pages with tokens in `changes` to which somebody else has a reference, too."""
        entries = sequence.tables[group].entries()
        own = Counter(page for page, _, _ in entries)
        refs = self._store.pools[group].refs
        return {page for page, _, _ in pieces(entries, changes) if refs[page] > own[page]}

    def _own(
        self,
        group: int,
        sequence: CacheSequence,
        stays: list[Span],
        changes: list[Span],
        shared: set[int],
        new: list[int],
    ) -> tuple[list[Entry], list[int]]:
        """The entries of the tokens in `stays`, those in `changes` in pages of one's own, and moved; and the pages that
        were taken for it."""
        size, pending = self._store.page_size, self._store.pending[group]
        entries = sequence.tables[group].entries()
        copies = {page: self._store.take(group) for page in sorted(shared)}
        out: list[Entry] = []
        for low, high, moves in _merged(stays, changes):
            at = low
            for page, first, count in pieces(entries, [(low, high)]):
                to = copies.get(page, page) if moves else page
                if to != page:
                    pending.copy(page, to, first, count)
                if moves:
                    for i in range(count):
                        pending.reposition(to * size + first + i, new[at + i])
                out.append((to, first, count))
                at += count
        return out, list(copies.values())

    def least_position(self, seq: int) -> int:
        sequence = self._sequences.get(seq)
        if sequence is None or sequence.length == 0:
            return -1
        return 0 if sequence.positions is None else min(sequence.positions)


def _clip(spans: list[Span], low: int, high: int) -> list[Span]:
    return [(max(a, low), min(b, high)) for a, b in spans if max(a, low) < min(b, high)]


def _runs(flags: list[bool]) -> list[Span]:
    """The spans of indices whose flag is set."""
    out: list[Span] = []
    for index, flag in enumerate(flags):
        if flag and out and out[-1][1] == index:
            out[-1] = (out[-1][0], index + 1)
        elif flag:
            out.append((index, index + 1))
    return out


def _merged(stays: list[Span], changes: list[Span]) -> list[tuple[int, int, bool]]:
    """The spans of `stays`, ascending, cut where `changes` (a part of them) begin and end, with whether they change."""
    still = [(*part, False) for span in stays for part in _clip(outside(changes, span[1]), *span)]
    return sorted(still + [(*span, True) for span in changes])
