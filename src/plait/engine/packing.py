"""From a step plan to the arrays of one step. Knows numpy and the two contracts; knows no model and no sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from plait.cache.edits import GroupEdits
from plait.cache.table import Entry, Parted
from plait.ops.api import I32Array, KVInputs, Reposition, SlotCopy, StepInputs
from plait.scheduler.plan import FromStep, PlannedSequence
from plait.types import TokenId


class _Table:
    """A sequence's page table as an array: the entries `before` the last, and a row for that one, which is new in every
    step and is left to whoever packs."""

    __slots__ = ("_room", "before", "rows")

    def __init__(self) -> None:
        self.before: tuple[Entry, ...] = ()
        self._room = np.empty((8, 3), np.int32)
        self.rows = self._room[:1]

    def rewrite(self, before: tuple[Entry, ...]) -> None:
        """Other entries before the last, as a rule those of the last step and one more."""
        kept, count = len(self.before), len(before) + 1
        if before[:kept] != self.before:
            kept = 0
        if count > len(self._room):
            room = np.empty((2 * count, 3), np.int32)
            room[:kept] = self._room[:kept]
            self._room = room
        if kept < count - 1:
            self._room[kept : count - 1] = before[kept:]
        self.before, self.rows = before, self._room[:count]


def only_edits(edits: Sequence[GroupEdits]) -> StepInputs:
    """A step without rows, which does the edits."""
    none, table = np.zeros(0, np.int32), np.zeros((0, 3), np.int32)
    groups = tuple(
        KVInputs(
            np.zeros(1, np.int32),
            table,
            none,
            none,
            tuple(SlotCopy(*copy) for copy in of_group.copies),
            tuple(Reposition(*move) for move in of_group.repositions),
        )
        for of_group in edits
    )
    return StepInputs(none, none, none, none, groups)


class Packer:
    """Packs plans. Keeps the page tables of the last step as arrays, so that a decode step costs little."""

    def __init__(self, num_groups: int) -> None:
        self._tables: list[dict[int, _Table]] = [{} for _ in range(num_groups)]

    def pack(
        self,
        sequences: Sequence[PlannedSequence],
        out_rows: Sequence[int],
        token: Callable[[FromStep], TokenId],
        hidden_only: int = 0,
    ) -> StepInputs:
        """A step without its edits, see `only_edits`. `out_rows` are the rows that something is made of, the last
        `hidden_only` of them without logits; `token` resolves those that the plan does not know."""
        names, given, first, tables, slots, *_ = _columns(sequences)
        counts = list(map(len, given))
        tokens = [t if isinstance(t, int) else token(t) for of_one in given for t in of_one]
        row_seq, positions = np.arange(len(counts), dtype=np.int32), np.array(first, np.int32)
        store_row = np.arange(len(tokens), dtype=np.int32)
        if len(tokens) > len(counts):
            starts = np.cumsum(counts, dtype=np.int32) - np.array(counts, np.int32)
            positions = store_row + np.repeat(positions - starts, counts)
            row_seq = np.repeat(row_seq, counts)
        return StepInputs(
            tokens=np.array(tokens, np.int32),
            positions=positions,
            row_seq=row_seq,
            out_rows=np.array(out_rows, np.int32),
            kv=tuple(
                self._pack_group(group, names, of_group, store_row, [t for of_one in places for t in of_one])
                for group, (of_group, places) in enumerate(zip(_columns(tables), _columns(slots), strict=True))
            ),
            hidden_only=hidden_only,
        )

    def _pack_group(
        self, group: int, names: Sequence[int], tables: Sequence[Parted], store_row: I32Array, slots: list[int]
    ) -> KVInputs:
        known, found = self._tables[group], {}
        parts: list[I32Array] = []
        for name, (before, _) in zip(names, tables, strict=True):
            table = found[name] = known.get(name) or _Table()
            if before is not table.before:
                table.rewrite(before)
            parts.append(table.rows)
        self._tables[group] = found
        starts = np.zeros(len(parts) + 1, np.int32)
        np.cumsum(list(map(len, parts)), out=starts[1:])
        entries = np.concatenate(parts)
        entries[starts[1:] - 1] = [last for _, last in tables]
        return KVInputs(starts, entries, store_row, np.array(slots, np.int32))


def _columns(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    return zip(*rows, strict=True)
