"""Pools, radix tree and waiting edits together: slots for new tokens, pages given back, pages made known.

Knows page references and how tables change; knows no sequence ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from plait.cache.config import CacheConfig
from plait.cache.edits import GroupEdits
from plait.cache.pages import PagePool
from plait.cache.pending import PendingEdits
from plait.cache.radix import LEAST_COPIED, RadixNode, RadixTree, Salt
from plait.cache.sequence import CacheSequence
from plait.cache.table import Entry, PageTable

NO_SALT = Salt()


class PageStore:
    """The pages of all groups. Whoever changes a table does it here, so that references follow."""

    def __init__(self, config: CacheConfig) -> None:
        if config.page_size < 1 or config.block_tokens < 1:
            raise ValueError(
                f"page_size {config.page_size}, block_tokens {config.block_tokens}: both must be at least 1"
            )
        if len(config.num_pages) != len(config.windows) or not config.windows:
            raise ValueError(f"{len(config.num_pages)} page counts for {len(config.windows)} groups: give one for each")
        if min(config.num_pages) < 2:
            raise ValueError(f"num_pages {config.num_pages}: page 0 is reserved, so a group needs at least 2")
        if any(window is not None and window < 1 for window in config.windows):
            raise ValueError(f"windows {config.windows}: a window is at least 1 token, or None")
        self.config = config
        self.page_size = config.page_size
        self.groups = range(len(config.num_pages))
        self.pools = [PagePool(count) for count in config.num_pages]
        self.tree = RadixTree(config, self.pools)
        self.pending = [PendingEdits(config.page_size) for _ in self.groups]

    def new_sequence(self, salt: Salt = NO_SALT) -> CacheSequence:
        return CacheSequence(salt, [PageTable() for _ in self.groups], self.page_size)

    def drain(self) -> tuple[GroupEdits, ...]:
        return tuple(pending.drain() for pending in self.pending)

    def put_back(self, edits: Sequence[GroupEdits]) -> None:
        for pending, of_group in zip(self.pending, edits, strict=True):
            pending.put_back(of_group)

    # --- room -------------------------------------------------------------------------------------------------------

    def fits(self, needs: Iterable[int]) -> bool:
        """Whether each group has, or can make, that many free pages."""
        for need, pool in zip(needs, self.pools, strict=True):  # noqa: SIM110 (hot)
            if need > pool.available:
                return False
        return True

    def take(self, group: int) -> int:
        """A free page with one reference; evicts one where none is free. There must be one of either."""
        pool = self.pools[group]
        if not pool.free:
            self.tree.evict(group)
        page = pool.take()
        self.pending[group].handed_out(page)
        return page

    def pages_needed(self, group: int, table: PageTable, count: int, sharers: int = 1) -> int:
        """Pages that `extend` takes for `count` tokens of `sharers` tables with the same tail."""
        size = self.page_size
        room = size - table.first - table.count if table.page else 0
        if room == 0 or count == 0:
            return -(-count // size)
        if self.pools[group].refs[table.page] == sharers:
            return -(-max(0, count - room) // size)
        if not self.pending[group].can_copy(table.page, size - room):
            return -(-count // size)
        return 1 - (-max(0, count - room) // size)

    def spare_copies(self, tables: Sequence[PageTable], count: int) -> bool:
        """There is no room for `count` more tokens of these tables, one for each group. Whether there is once tails
        that only the tree shares are not copied: then the tree has given up those pages, and what follows them. A
        sequence that fills the memory by itself needs that: there is no page for the copy."""
        short = []
        for group, (pool, table) in enumerate(zip(self.pools, tables, strict=True)):
            if self.pages_needed(group, table, count) <= pool.available:
                continue
            room, page = self.page_size - table.first - table.count, table.page
            of_tree = page in pool.known and pool.refs[page] == 2 and room > 0
            if not of_tree or -(-max(0, count - room) // self.page_size) > pool.available:
                return False
            short.append((group, page))
        for group, page in short:
            if page in self.pools[group].known:  # else it went with that of another group
                self.tree.give_up(group, page)
        return True

    def forget_cached(self) -> None:
        """Evict everything that no sequence holds."""
        for group in self.groups:
            while self.pools[group].idle:
                self.tree.evict(group)

    # --- tables -----------------------------------------------------------------------------------------------------

    def extend(self, group: int, tables: Sequence[PageTable], count: int) -> tuple[list[int], bool]:
        """Slots for `count` more tokens of tables that end at the same slot, or all at the end of a page; and whether
        a page was left with a gap. The pages must be available.

        A tail that somebody else holds too is copied first. But a tail that the coming step has yet to fill cannot be
        copied before it: then its page is left as it is, and the tokens go to a new page.
        """
        size, pool, pending = self.page_size, self.pools[group], self.pending[group]
        slots: list[int] = []
        lead, ragged = tables[0], False
        end = lead.first + lead.count
        if lead.page and end < size and count:
            if pool.refs[lead.page] != len(tables):
                ragged = not pending.can_copy(lead.page, end)
                if not ragged:
                    self._copy_tail(group, tables)
            if not ragged:
                taken = min(size - end, count)
                slots.extend(range(lead.page * size + end, lead.page * size + end + taken))
                pending.will_store(lead.page, end)
                for table in tables:
                    table.count += taken
        left = count - len(slots)
        if left > 0:
            pages = self._take_pages(group, -(-left // size))
            pending.will_fill(pages)
            for page in pages:
                slots.extend(range(page * size, page * size + size))
            del slots[count:]
            for number, table in enumerate(tables):
                table.push_pages(pages, size, (left - 1) % size + 1)
                if number:
                    pool.hold_all(pages)
        return slots, ragged

    def _take_pages(self, group: int, count: int) -> list[int]:
        """Free pages with one reference each, evicted where none is free."""
        pool, evict = self.pools[group], self.tree.evict
        free, refs, pages = pool.free, pool.refs, []
        for _ in range(count):
            if not free:
                evict(group)
            page = free.pop()
            refs[page] = 1
            pages.append(page)
        return pages

    def _copy_tail(self, group: int, tables: Sequence[PageTable]) -> None:
        pool, old = self.pools[group], tables[0].page
        new = self.take(group)
        first, end = min(table.first for table in tables), tables[0].first + tables[0].count
        self.pending[group].copy(old, new, first, end - first)
        for number, table in enumerate(tables):
            table.page = new
            if number:
                pool.hold(new)
            pool.drop(old)

    def set_entries(self, group: int, table: PageTable, entries: Iterable[Entry]) -> None:
        """Replace a whole table; what was named only by the old one is given back, last page first."""
        pool, old = self.pools[group], table.entries()
        table.replace(entries)
        for page, _, _ in table.entries():
            pool.hold(page)
        for page, _, _ in reversed(old):
            pool.drop(page)

    def share(self, sequence: CacheSequence) -> list[PageTable]:
        """A second reference to all pages of a sequence: its tables, copied."""
        copies = [PageTable(table.entries(), table.start) for table in sequence.tables]
        for pool, table in zip(self.pools, copies, strict=True):
            for page, _, _ in table.entries():
                pool.hold(page)
        return copies

    def shorten(self, sequence: CacheSequence, length: int) -> None:
        """Drop all tokens past `length`; see `can_shorten`."""
        if length == sequence.length:
            return
        for pool, table in zip(self.pools, sequence.tables, strict=True):
            if length == 0:
                pool.drop_all(table.clear())
                table.start = 0
            else:
                pool.drop_all(table.cut_tail(min(sequence.length - length, sequence.length - table.start)))
        sequence.shorten(length, self.page_size)

    def can_shorten(self, sequence: CacheSequence, length: int) -> bool:
        """Whether a token after the first `length` would still find all the keys it looks at."""
        if length == 0:
            return True
        for window, table in zip(self.config.windows, sequence.tables, strict=True):
            if window is not None and table.start > max(0, length - window + 1):
                return False
        return True

    # --- computed pages -----------------------------------------------------------------------------------------------

    def resident(self, tokens: Sequence[int], salt: Salt) -> int:
        """How many of `tokens` are in memory, but for the last one."""
        path = self.tree.match(tokens, salt)
        found = self.tree.beginning(path, tokens, salt)
        return len(path) * self.page_size + (found[1] if found else 0)

    def attach(self, tokens: Sequence[int], salt: Salt, reuse: bool) -> CacheSequence:
        """A new sequence that holds the longest usable path of the tree, and the beginning of a page after it."""
        sequence = self.new_sequence(salt)
        if not reuse:
            return sequence
        path = self.tree.match(tokens, salt)
        if path:
            self._hold_path(sequence, path)
        found = self.tree.beginning(path, tokens, salt)
        if found and self._has_room_beside(tokens, len(path)):
            self._hold_beginning(sequence, *found, tokens)
        return sequence

    def _hold_path(self, sequence: CacheSequence, path: list[RadixNode]) -> None:
        size = self.page_size
        sequence.length = sequence.committed = len(path) * size
        sequence.boundary = sequence.length + size
        sequence.node = path[-1]
        for g, table in enumerate(sequence.tables):
            table.start = self.tree.first_kept(g, sequence.length)
            pages = [node.pages[g] for node in path[table.start // size :]]
            table.replace([(page, 0, size) for page in pages])
            self.pools[g].hold_all(pages)

    def _has_room_beside(self, tokens: Sequence[int], num_pages: int) -> bool:
        """Whether the pages of `tokens` after the first `num_pages` can be had beside one that is to be copied: a page
        that is held until it is copied must not be the one that is missing."""
        needed = -(-len(tokens) // self.page_size) - num_pages
        for pool in self.pools:  # noqa: SIM110 (hot)
            if pool.available <= needed:
                return False
        return True

    def _hold_beginning(self, sequence: CacheSequence, node: RadixNode, count: int, tokens: Sequence[int]) -> None:
        """Share the first `count` slots of a page. Whoever writes to it first copies them, as with any shared page."""
        start = sequence.length
        sequence.length = sequence.committed = start + count
        sequence.tail = list(tokens[start : start + count])
        for g, table in enumerate(sequence.tables):
            table.push(node.pages[g], count)
            self.pools[g].hold(node.pages[g])

    def leave(self, sequence: CacheSequence) -> None:
        """The sequence is given up; its ragged end stays."""
        self.publish_tail(sequence)
        self.shorten(sequence, 0)

    def publish_tail(self, sequence: CacheSequence) -> None:
        """The page that the computed tokens do not fill becomes a leaf of the tree, unless it is shared, with somebody
        who goes on writing to it or with the tree itself. If the sequence goes on, it does so in a copy."""
        node = sequence.node
        kept = sequence.cacheable and len(sequence.tail) >= LEAST_COPIED
        if not kept or (node is not None and node.parent is None):
            return
        number, root = node.depth if node else 0, sequence.salt.root
        pages = [table.page_at(number - table.start // self.page_size) for table in sequence.tables]
        key = sequence.salt.key(number, tuple(sequence.tail))
        shared = any(pool.refs[page] != 1 for pool, page in zip(self.pools, pages, strict=True))
        if not shared and not self.tree.has_beginning(node, key, root):
            leaf = self.tree.add(node, key, root)
            for g, page in enumerate(pages):
                self.tree.give(leaf, g, page)

    def settle(self, sequence: CacheSequence) -> None:
        """`committed` has passed `boundary`: whole pages enter the tree, and window groups give back what no later
        token looks at."""
        size = self.page_size
        sequence.boundary = (sequence.committed // size + 1) * size
        if sequence.cacheable:
            self._publish(sequence)
        if not sequence.plain:
            return
        for g, table in enumerate(sequence.tables):
            gone = self.tree.first_kept(g, sequence.committed) - table.start
            if gone > 0:
                for page in table.cut_head(gone // size, gone):
                    self.pools[g].drop(page)

    def _publish(self, sequence: CacheSequence) -> None:
        """Whole pages of committed tokens enter the tree. Where it knows the path already, the sequence takes the
        tree's page and drops its own; a gap in the tree is filled with the sequence's."""
        size, node, salt, tail = self.page_size, sequence.node, sequence.salt, sequence.tail
        if node is not None and node.parent is None and len(tail) >= size:
            sequence.cacheable = False  # the path was evicted above us: it cannot be continued
            return
        tree, number = self.tree, node.depth if node else 0
        whole = len(tail) // size * size
        for at in range(0, whole, size):
            key = salt.key(number, tuple(tail[at : at + size]))
            node = tree.child(node, key, salt.root) or tree.add(node, key, salt.root)
            for g, table in enumerate(sequence.tables):
                entry = number - table.start // size
                if entry < 0:
                    continue
                own, known = table.page_at(entry), node.pages[g]
                if not known:
                    tree.give(node, g, own)
                elif known != own:
                    self.pools[g].hold(known)
                    table.set_page(entry, known)
                    self.pools[g].drop(own)
            number += 1
        sequence.node = node
        del tail[:whole]

    # --- checks -------------------------------------------------------------------------------------------------------

    def check(self, sequences: Iterable[CacheSequence]) -> None:
        named: list[Counter[int]] = [Counter() for _ in self.groups]
        for sequence in sequences:
            for g, table in enumerate(sequence.tables):
                named[g].update(page for page, _, _ in table.entries())
        self.tree.check()
        for g, pool in enumerate(self.pools):
            pool.check()
            named[g].update(pool.known)
            held = {page: refs for page, refs in enumerate(pool.refs) if refs}
            assert held == named[g], f"group {g}: references {held} are not those of tables and tree {dict(named[g])}"
