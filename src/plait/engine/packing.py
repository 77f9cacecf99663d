"""From a step plan to the arrays of one step. Knows numpy and the two contracts; knows no model and no sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from plait.cache.edits import GroupEdits
from plait.ops.api import I32Array, KVInputs, Reposition, SlotCopy, StepInputs
from plait.scheduler.plan import FromStep, PlannedSequence
from plait.types import TokenId

Entries: TypeAlias = tuple[tuple[int, int, int], ...]


class _Table:
    """A sequence's page table as an array. From step to step, as a rule, only the last entry's count changes."""

    __slots__ = ("_before", "_last", "_rows", "_used")

    def __init__(self) -> None:
        self._before: Entries = ()
        self._last = (0, 0, 0)
        self._rows = np.empty((8, 3), np.int32)
        self._used = self._rows[:0]

    def update(self, entries: Entries) -> I32Array:
        before, last = entries[:-1], entries[-1]
        if before == self._before and last[:2] == self._last[:2]:
            self._used[-1, 2] = last[2]
        else:
            self._rewrite(before, last)
        self._last = last
        return self._used

    def _rewrite(self, before: Entries, last: tuple[int, int, int]) -> None:
        kept, count = len(self._before), len(before) + 1
        if before[:kept] != self._before:
            kept = 0
        if count > len(self._rows):
            rows = np.empty((2 * count, 3), np.int32)
            rows[:kept] = self._rows[:kept]
            self._rows = rows
        self._rows[kept:count] = (*before[kept:], last)
        self._before, self._used = before, self._rows[:count]


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
        tokens: list[int] = []
        positions: list[int] = []
        row_seq: list[int] = []
        for index, planned in enumerate(sequences):
            first, given = planned.first_position, planned.tokens
            if len(given) == 1:
                tokens.append(given[0] if isinstance(given[0], int) else token(given[0]))
                positions.append(first)
                row_seq.append(index)
                continue
            tokens.extend([t if isinstance(t, int) else token(t) for t in given])
            positions.extend(range(first, first + len(given)))
            row_seq.extend([index] * len(given))
        store_row = np.arange(len(tokens), dtype=np.int32)
        return StepInputs(
            tokens=np.array(tokens, np.int32),
            positions=np.array(positions, np.int32),
            row_seq=np.array(row_seq, np.int32),
            out_rows=np.array(out_rows, np.int32),
            kv=tuple(self._pack_group(group, sequences, store_row) for group in range(len(self._tables))),
            hidden_only=hidden_only,
        )

    def _pack_group(self, group: int, sequences: Sequence[PlannedSequence], store_row: I32Array) -> KVInputs:
        known, tables = self._tables[group], {}
        parts: list[I32Array] = []
        slots: list[int] = []
        starts = [0]
        for sequence, _, _, entries, of_rows, *_ in sequences:
            table = tables[sequence] = known.get(sequence) or _Table()
            parts.append(table.update(entries[group]))
            starts.append(starts[-1] + len(entries[group]))
            slots += of_rows[group]
        self._tables[group] = tables
        return KVInputs(np.array(starts, np.int32), np.concatenate(parts), store_row, np.array(slots, np.int32))
