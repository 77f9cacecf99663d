"""What the cache knows of one sequence. Data and its upkeep; page references are the store's business."""

from __future__ import annotations

from dataclasses import dataclass, field

from plait.cache.radix import RadixNode, Salt
from plait.cache.table import PageTable, Span


@dataclass(slots=True)
class CacheSequence:
    """`length` tokens have slots, the first `committed` of them are computed.

    `plain`: token i has position i and lies in page i // page_size of each table. Anything else never enters the
    radix tree and keeps all its pages. `cacheable`: whole pages enter the tree; `node` is then the last one that did
    (None: none yet) and `tail` are the committed tokens after it. `positions` are those of all tokens, None while they
    equal the indices; `top` is then one more than the greatest. `boundary` is the next number of committed tokens that
    completes a page. `passing`: made by a sequence operation, forgotten when empty.
    """

    salt: Salt
    tables: list[PageTable]
    boundary: int
    length: int = 0
    committed: int = 0
    plain: bool = True
    cacheable: bool = True
    node: RadixNode | None = None
    tail: list[int] = field(default_factory=list)
    positions: list[int] | None = None
    top: int = 0
    passing: bool = False

    @property
    def next_position(self) -> int:
        return self.length if self.positions is None else self.top

    @property
    def trimmed(self) -> bool:
        """Some window group has given pages back."""
        return any(table.start for table in self.tables)

    def all_positions(self) -> list[int]:
        return list(range(self.length)) if self.positions is None else self.positions

    def set_positions(self, positions: list[int]) -> None:
        """The sequence becomes an edited one, with these tokens."""
        self.plain = self.cacheable = False
        self.positions = positions
        self.length = self.committed = len(positions)
        self.top = max(positions, default=-1) + 1

    def grow(self, count: int) -> None:
        """`count` more tokens, at the next positions."""
        self.length += count
        if self.positions is not None:
            self.positions.extend(range(self.top, self.top + count))
            self.top += count

    def spans(self, p0: int, p1: int) -> list[Span]:
        """The tokens, by index, with p0 <= position < p1; a negative bound is open."""
        low = max(p0, 0)
        if self.positions is None:
            high = self.length if p1 < 0 else min(p1, self.length)
            return [(low, high)] if low < high else []
        high = self.top if p1 < 0 else p1
        out: list[Span] = []
        for index, position in enumerate(self.positions):
            if not low <= position < high:
                continue
            if out and out[-1][1] == index:
                out[-1] = (out[-1][0], index + 1)
            else:
                out.append((index, index + 1))
        return out

    def shorten(self, length: int, page_size: int) -> None:
        """Forget all tokens past `length`, but for the tables."""
        self.length = length
        if self.positions is not None:
            del self.positions[length:]
            self.top = max(self.positions, default=-1) + 1
        if length < self.committed:
            self.committed = length
            self.boundary = (length // page_size + 1) * page_size
            if self.cacheable:
                self._rewind(page_size)

    def _rewind(self, page_size: int) -> None:
        """Move `node` and `tail` back to `committed`."""
        keep = self.committed
        if keep == 0:
            self.node, self.tail = None, []
            return
        node = self.node
        while node is not None and node.depth * page_size > keep:
            self.tail = node.tokens
            assert node.parent is not None, "a page that a plain sequence holds has left the tree"
            node = node.parent if node.depth > 1 else None
        self.node = node
        del self.tail[keep - (node.depth if node else 0) * page_size :]
