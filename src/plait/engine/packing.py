"""From a step plan to the arrays of one step. Knows numpy and the two contracts; knows no model and no sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, compress
from operator import is_not
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


class _Group:
    """The page tables of one KV group in the last step. From step to step most sequences stay, and so do the entries
    before their last: what stays is found by identity, a column at a time."""

    def __init__(self) -> None:
        self._names: tuple[int, ...] = ()
        self._befores: tuple[tuple[Entry, ...], ...] = ()
        self._tables: list[_Table] = []
        self._parts: list[I32Array] = []

    def pack(self, names: tuple[int, ...], tables: Sequence[Parted]) -> tuple[I32Array, I32Array]:
        """The start of each sequence's entries, and their end; the entries, fresh."""
        befores, lasts = _columns(tables)
        if names != self._names:
            known = dict(zip(self._names, self._tables, strict=True))
            self._tables = [known.get(name) or _Table() for name in names]
            self._befores = tuple([table.before for table in self._tables])
            self._parts = [table.rows for table in self._tables]
            self._names = names
        for i in compress(range(len(names)), map(is_not, befores, self._befores)):
            self._tables[i].rewrite(befores[i])
            self._parts[i] = self._tables[i].rows
        self._befores = befores
        starts = np.zeros(len(names) + 1, np.int32)
        np.cumsum(list(map(len, self._parts)), out=starts[1:])
        entries = np.concatenate(self._parts)
        entries[starts[1:] - 1] = np.fromiter(chain.from_iterable(lasts), np.int32, 3 * len(names)).reshape(-1, 3)
        return starts, entries


class Packer:
    """Packs plans. Keeps the page tables of the last step as arrays, so that a decode step costs little."""

    def __init__(self, num_groups: int) -> None:
        self._groups = [_Group() for _ in range(num_groups)]

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
        if set(counts) != {1}:
            starts = np.cumsum(counts, dtype=np.int32) - np.array(counts, np.int32)
            positions = store_row + np.repeat(positions - starts, counts)
            row_seq = np.repeat(row_seq, counts)
        return StepInputs(
            tokens=np.array(tokens, np.int32),
            positions=positions,
            row_seq=row_seq,
            out_rows=np.array(out_rows, np.int32),
            kv=tuple(
                KVInputs(*group.pack(names, of_group), store_row, np.array(list(chain.from_iterable(places)), np.int32))
                for group, of_group, places in zip(self._groups, _columns(tables), _columns(slots), strict=True)
            ),
            hidden_only=hidden_only,
        )


def _columns(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    return zip(*rows, strict=True)
