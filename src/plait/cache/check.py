"""Invariants of the sequences, for tests and for hunting a bug."""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm

from plait.cache.sequence import CacheSequence
from plait.cache.store import PageStore


def check_sequences(store: PageStore, sequences: Mapping[int, CacheSequence]) -> None:
    """Raises AssertionError where the tables, positions or tree paths of the sequences contradict each other."""
    stored: list[dict[int, int]] = [{} for _ in store.groups]  # slot -> position: one slot has one position for all
    for seq, sequence in sequences.items():
        assert 0 <= sequence.committed <= sequence.length, f"sequence {seq}: more tokens committed than reserved"
        assert not sequence.plain or sequence.committed < sequence.boundary, f"sequence {seq}: pages not settled"
        positions = sequence.all_positions()
        assert len(positions) == sequence.length, f"sequence {seq}: a token without a position"
        assert sequence.next_position == max(positions, default=-1) + 1, f"sequence {seq}: wrong next position"
        assert sequence.positions is None or not sequence.plain, f"sequence {seq}: plain, but with own positions"
        assert sequence.plain or not sequence.cacheable, f"sequence {seq}: cacheable, but not plain"
        for g in store.groups:
            _check_table(store, seq, sequence, g, positions, stored[g])
        if sequence.cacheable:
            _check_path(store, seq, sequence)


def _check_table(
    store: PageStore, seq: int, sequence: CacheSequence, group: int, positions: list[int], stored: dict[int, int]
) -> None:
    size, table = store.page_size, sequence.tables[group]
    entries = table.entries()
    assert table.start + sum(count for _, _, count in entries) == sequence.length, f"sequence {seq}: table and length"
    assert table.start % lcm(size, store.config.block_tokens) == 0, f"sequence {seq}: table begins inside a block"
    assert table.start == 0 or store.config.windows[group] is not None, f"sequence {seq}: a full group was trimmed"
    assert len(table) == len(entries), f"sequence {seq}: len(table)"
    index, own = table.start, set()
    for page, first, count in entries:
        assert page > 0, f"sequence {seq}: page 0 in a table"
        assert count > 0, f"sequence {seq}: an empty entry"
        assert first >= 0, f"sequence {seq}: an entry before its page"
        assert first + count <= size, f"sequence {seq}: an entry past its page"
        if sequence.plain:
            assert first == 0, f"sequence {seq}: plain, but with an entry inside a page"
            assert index % size == 0, f"sequence {seq}: plain, but with a gap"
        for slot in range(page * size + first, page * size + first + count):
            assert slot not in own, f"sequence {seq}: slot {slot} twice"
            own.add(slot)
            assert stored.setdefault(slot, positions[index]) == positions[index], f"slot {slot}: two positions"
            index += 1


def _check_path(store: PageStore, seq: int, sequence: CacheSequence) -> None:
    node = sequence.node
    depth = node.depth if node else 0
    assert depth * store.page_size + len(sequence.tail) == sequence.committed, f"sequence {seq}: tokens of the tail"
    while node is not None and node.parent is not None and node.depth:
        for g, table in enumerate(sequence.tables):
            entry = node.depth - 1 - table.start // store.page_size
            if entry >= 0:
                assert table.page_at(entry) == node.pages[g], f"sequence {seq}: not the page of its path"
        assert node.salt == sequence.salt.root, f"sequence {seq}: the path of another salt"
        node = node.parent
