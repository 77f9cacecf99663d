"""Edits of KV memory that page bookkeeping asks a backend to do before its next step. Plain data, ints only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroupEdits:
    """What is to be done in one KV group: first `copies`, (source slot, destination slot, count) in order; then
    `repositions`, (slot, new position), which re-rotate the stored K. Slot = page * page_size + offset."""

    copies: tuple[tuple[int, int, int], ...] = ()
    repositions: tuple[tuple[int, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.copies or self.repositions)
