"""The page table of one sequence in one KV group, and the cutting of lists of its entries. No reference counts here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

Entry: TypeAlias = tuple[int, int, int]
"""(page, first, count): the slots page * page_size + first, and count - 1 more."""

Parted: TypeAlias = tuple[tuple[Entry, ...], Entry]
"""A table with its last entry apart: those before it, and the last."""

Span: TypeAlias = tuple[int, int]
"""Half-open range of token indices."""


class PageTable:
    """Entries in the order of the tokens. The last one is kept apart, as it grows with every token; page 0 means there
    is none. `frozen` is `before_last()`, None where that is to be made anew. `start` is the index of the first token in
    the table: not 0 where a window group gave pages back."""

    __slots__ = ("closed", "count", "first", "frozen", "page", "start")

    def __init__(self, entries: Iterable[Entry] = (), start: int = 0) -> None:
        self.start = start
        self.replace(entries)

    def replace(self, entries: Iterable[Entry]) -> None:
        self.closed = list(entries)
        self.frozen: tuple[Entry, ...] | None = None
        self.page, self.first, self.count = self.closed.pop() if self.closed else (0, 0, 0)

    def entries(self) -> tuple[Entry, ...]:
        """All entries. Costs a copy of a tuple of pointers while only the last entry grows."""
        if self.page == 0:
            return ()
        return self.before_last() + ((self.page, self.first, self.count),)  # noqa: RUF005 (unpacking is slower)

    def parted(self) -> Parted:
        """All entries, of which there is one at least, the last one apart."""
        return self.before_last(), (self.page, self.first, self.count)

    def before_last(self) -> tuple[Entry, ...]:
        """All entries but the last one; the same object until they change."""
        closed = self.frozen
        if closed is None:
            closed = self.frozen = tuple(self.closed)
        return closed

    def __len__(self) -> int:
        return len(self.closed) + (self.page != 0)

    def push(self, page: int, count: int) -> None:
        """A new last entry at the beginning of `page`."""
        if self.page:
            self.closed.append((self.page, self.first, self.count))
            self.frozen = None
        self.page, self.first, self.count = page, 0, count

    def push_pages(self, pages: list[int], size: int, count: int) -> None:
        """New last entries: whole `pages` of `size` tokens, but for the last one, of which `count`."""
        closed = self.closed
        if self.page:
            closed.append((self.page, self.first, self.count))
        closed += [(page, 0, size) for page in pages[:-1]]
        self.frozen = None
        self.page, self.first, self.count = pages[-1], 0, count

    def clear(self) -> list[int]:
        """Drop all tokens; returns the pages as `cut_tail` does."""
        gone = [entry[0] for entry in reversed(self.closed)]
        if self.page:
            gone.insert(0, self.page)
        self.replace(())
        return gone

    def cut_tail(self, count: int) -> list[int]:
        """Drop the last `count` tokens; returns the pages that are no longer named, last first, once for each entry."""
        gone = []
        while count and count >= self.count:
            count -= self.count
            gone.append(self.page)
            self.page, self.first, self.count = self.closed.pop() if self.closed else (0, 0, 0)
            self.frozen = None
        self.count -= count
        return gone

    def cut_head(self, num_entries: int, num_tokens: int) -> list[int]:
        """Drop the first entries, never the last one; returns their pages, in order."""
        gone = [entry[0] for entry in self.closed[:num_entries]]
        del self.closed[:num_entries]
        self.frozen = None
        self.start += num_tokens
        return gone

    def page_at(self, number: int) -> int:
        return self.closed[number][0] if number < len(self.closed) else self.page

    def set_page(self, number: int, page: int) -> None:
        """Entry `number` moves to another page, at the same offset."""
        if number < len(self.closed):
            _, first, count = self.closed[number]
            self.closed[number] = (page, first, count)
            self.frozen = None
        else:
            self.page = page


def joined(entries: Iterable[Entry]) -> list[Entry]:
    """Entries that continue each other in one page, made one."""
    out: list[Entry] = []
    for page, first, count in entries:
        if out and out[-1][0] == page and out[-1][1] + out[-1][2] == first:
            out[-1] = (page, out[-1][1], out[-1][2] + count)
        else:
            out.append((page, first, count))
    return out


def pieces(entries: Iterable[Entry], spans: Sequence[Span]) -> list[Entry]:
    """The parts of `entries` (whose first token has index 0) that lie in the ascending, disjoint `spans`."""
    out: list[Entry] = []
    at = next_span = 0
    for page, first, count in entries:
        end = at + count
        while next_span < len(spans) and spans[next_span][1] <= at:
            next_span += 1
        number = next_span
        while number < len(spans) and spans[number][0] < end:
            low, high = max(spans[number][0], at), min(spans[number][1], end)
            out.append((page, first + low - at, high - low))
            number += 1
        at = end
    return out


def outside(spans: Sequence[Span], length: int) -> list[Span]:
    """The part of range(length) that is in none of the ascending, disjoint spans."""
    out: list[Span] = []
    at = 0
    for low, high in (*spans, (length, length)):
        if at < low:
            out.append((at, low))
        at = high
    return out
