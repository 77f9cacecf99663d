"""The pages of one KV group: which are free, how many references each has, which only the radix tree still holds.

Knows page numbers and counts; knows no tokens, no sequences, and not what the tree looks like.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class PagePool:
    """Pages 1..num_pages-1 of one group; page 0 is reserved and never handed out.

    A page is *free* (no reference), *cached* (known to the tree, which holds the only reference) or *held* (by table
    entries of sequences, one reference for each entry, and one more if the tree knows it). So a page may be written by
    the holder of one reference exactly when `refs[page] == 1`.

    `free` are the free pages, of which the last is the next to be handed out. `idle` holds the cached pages in the
    order in which their last sequence left them: the least recently used first.
    """

    __slots__ = ("free", "idle", "known", "refs")

    def __init__(self, num_pages: int) -> None:
        self.refs = [0] * num_pages
        self.free = list(range(num_pages - 1, 0, -1))
        self.known: set[int] = set()
        self.idle: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        return len(self.free)

    @property
    def num_cached(self) -> int:
        return len(self.idle)

    @property
    def num_held(self) -> int:
        return len(self.refs) - 1 - len(self.free) - len(self.idle)

    @property
    def available(self) -> int:
        """Pages that can be had: the free ones, and the cached ones, each of which can be evicted."""
        return len(self.free) + len(self.idle)

    def take(self) -> int:
        """A free page, with one reference. There must be one."""
        page = self.free.pop()
        self.refs[page] = 1
        return page

    def hold(self, page: int) -> None:
        """One more reference to a page that has some."""
        self.refs[page] += 1
        if page in self.idle:
            del self.idle[page]

    def hold_all(self, pages: Iterable[int]) -> None:
        """`hold` of each page."""
        refs, idle = self.refs, self.idle
        for page in pages:
            refs[page] += 1
            if page in idle:
                del idle[page]

    def drop_all(self, pages: Iterable[int]) -> None:
        """`drop` of each page, in order."""
        refs, known, idle, free = self.refs, self.known, self.idle, self.free
        for page in pages:
            left = refs[page] - 1
            refs[page] = left
            if left == 0:
                free.append(page)
            elif left == 1 and page in known:
                idle[page] = None

    def drop(self, page: int) -> None:
        """One reference less: the page may become cached or free."""
        left = self.refs[page] - 1
        self.refs[page] = left
        if left == 0:
            self.free.append(page)
        elif left == 1 and page in self.known:
            self.idle[page] = None

    def learn(self, page: int) -> None:
        """The tree takes a reference to a page that a sequence holds."""
        self.known.add(page)
        self.refs[page] += 1

    def forget(self, page: int) -> None:
        """The tree gives its reference back."""
        self.known.remove(page)
        left = self.refs[page] - 1
        self.refs[page] = left
        if left == 0:
            del self.idle[page]
            self.free.append(page)

    def check(self) -> None:
        free = set(self.free)
        assert len(free) == len(self.free), "a page is in the free list twice"
        assert 0 not in free, "page 0 is in the free list"
        assert self.refs[0] == 0, "page 0 is referenced"
        for page in range(1, len(self.refs)):
            assert self.refs[page] >= 0, f"page {page} has {self.refs[page]} references"
            assert (self.refs[page] == 0) == (page in free), f"page {page}: free and referenced, or neither"
        idle = {page for page in self.known if self.refs[page] == 1}
        assert idle == set(self.idle), "idle is not the pages that only the tree holds"
        assert not self.known & free, "the tree knows a free page"
