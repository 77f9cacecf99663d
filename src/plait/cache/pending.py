"""Edits of KV memory that wait for the next step, in one group: copies first, in order, then repositions.

Why a page may be freed and handed out again before the edits are done: copies are done in the order in which they were
asked for, each after everything that its source and destination meant before, and rows of the step are stored after
all of them. Repositions come last, so they need care: a copy hands its source's waiting positions on to its
destination, and a page that is handed out anew loses the waiting positions of its former life.
"""

from __future__ import annotations

from plait.cache.edits import GroupEdits

_NOTHING = GroupEdits()


class PendingEdits:
    """`fresh[page]` is the first offset of the page that only the coming step will store: edits come too early to copy
    or move what lies there."""

    __slots__ = ("_copies", "_page_size", "_positions", "fresh")

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._copies: list[tuple[int, int, int]] = []
        self._positions: dict[int, int] = {}
        self.fresh: dict[int, int] = {}

    def handed_out(self, page: int) -> None:
        """`page` begins a new life."""
        self.fresh.pop(page, None)
        if self._positions:
            for slot in range(page * self._page_size, (page + 1) * self._page_size):
                self._positions.pop(slot, None)

    def will_fill(self, pages: list[int]) -> None:
        """`pages` begin a new life, and the coming step stores them from their first slot on."""
        self.fresh.update(dict.fromkeys(pages, 0))
        if self._positions:
            for page in pages:
                for slot in range(page * self._page_size, (page + 1) * self._page_size):
                    self._positions.pop(slot, None)

    def will_store(self, page: int, offset: int) -> None:
        """The coming step stores slots of `page` from `offset` on."""
        if self.fresh.get(page, self._page_size) > offset:
            self.fresh[page] = offset

    def can_copy(self, page: int, end: int) -> bool:
        """Whether the first `end` slots of `page` are in memory before the coming step."""
        return end <= self.fresh.get(page, self._page_size)

    def copy(self, page: int, to: int, first: int, count: int) -> None:
        """Copy slots first..first+count-1 of `page` to the same offsets of page `to`."""
        assert self.can_copy(page, first + count), f"page {page} is to be copied before the step that fills it"
        src, dst = page * self._page_size + first, to * self._page_size + first
        self._copies.append((src, dst, count))
        if self._positions:
            for offset in range(count):
                if src + offset in self._positions:
                    self._positions[dst + offset] = self._positions[src + offset]

    def reposition(self, slot: int, position: int) -> None:
        page, offset = divmod(slot, self._page_size)
        assert self.can_copy(page, offset + 1), f"slot {slot} is to be moved before the step that fills it"
        self._positions[slot] = position

    def drain(self) -> GroupEdits:
        self.fresh.clear()
        if not self._copies and not self._positions:
            return _NOTHING
        edits = GroupEdits(tuple(self._copies), tuple(self._positions.items()))
        self._copies.clear()
        self._positions.clear()
        return edits

    def put_back(self, edits: GroupEdits) -> None:
        """The opposite of the `drain` that gave these, with nothing asked for in between."""
        assert not self._copies, "edits are put back before others are asked for"
        assert not self._positions, "edits are put back before others are asked for"
        self._copies.extend(edits.copies)
        self._positions.update(edits.repositions)
