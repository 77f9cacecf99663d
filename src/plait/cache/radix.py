"""The radix tree: which token paths have pages in memory. One node is one page of tokens; a leaf may hold fewer.

Knows tokens, nodes and the page pools; knows no sequences. A salt (tenant, adapter) at the root keeps paths apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import TypeAlias

from plait.cache.config import CacheConfig
from plait.cache.pages import PagePool

LEAST_COPIED = 2
"""Tokens of a page that are worth copying: a copy takes about as long as computing one token in a small model, and
nearly all prompts have their first token in common."""

PageKey: TypeAlias = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Salt:
    """Whose a path is: `root` keeps whole paths apart, `inner` those from page number `page` (at least 1) on; what is
    before that page is shared with all paths of the root."""

    root: str = ""
    inner: str = ""
    page: int = 0

    @staticmethod
    def of(salt: str, salt_from: int, page_size: int) -> Salt:
        """Private from the page on that holds token `salt_from`."""
        page = salt_from // page_size
        return Salt("", salt, page) if page and salt else Salt(salt)

    def key(self, number: int, tokens: tuple[int, ...]) -> PageKey:
        """What page `number` of a path is found by."""
        return (self.inner, *tokens) if self.inner and number == self.page else tokens


class RadixNode:
    """`page_size` tokens, or the fewer ones of a ragged leaf, found by `key`, after the path of `parent`. `pages[g]` is
    the page in group g, 0 where a window group's page was evicted. A node that left the tree has no parent.
    `ordered` are the keys of the children, sorted: those that begin alike lie together. Those with an inner salt are in
    `private`, as a text does not compare with a token."""

    __slots__ = ("children", "depth", "key", "ordered", "pages", "parent", "private", "salt")

    def __init__(self, key: PageKey, parent: RadixNode | None, pages: list[int], salt: str) -> None:
        self.key = key
        self.parent = parent
        self.depth: int = parent.depth + 1 if parent else 0
        self.pages = pages
        self.salt = salt
        self.children: dict[PageKey, RadixNode] = {}
        self.ordered: list[PageKey] = []
        self.private: list[PageKey] = []

    def among(self, key: PageKey) -> list[PageKey]:
        """The sorted keys of children among which `key` is, or would be."""
        return self.private if isinstance(key[0], str) else self.ordered

    def disown(self, child: RadixNode) -> None:
        child.parent = None
        if len(self.children) == 1:
            self.children.clear()
            self.ordered.clear()
            self.private.clear()
            return
        key = child.key
        keys = self.among(key)
        del self.children[key]
        del keys[bisect_left(keys, key)]

    @property
    def tokens(self) -> list[int]:
        return [token for token in self.key if not isinstance(token, str)]


class RadixTree:
    """Token paths and their pages. The tree holds one reference to each of its pages.

    A sequence that holds a page of a node holds the full groups' pages of all nodes above it, unless it was edited, and
    sequences give pages back last page first. So the least recently used page of a full group that no sequence holds
    (`PagePool.idle`) belongs to a node without children of use, and evicting costs no search. Evicting a full group's
    page removes the node and what is below it: nothing can be reached through it. Evicting a window group's page
    leaves a gap in the node: later tokens do not look that far back.
    """

    def __init__(self, config: CacheConfig, pools: Sequence[PagePool]) -> None:
        self._page_size = config.page_size
        self._windows = config.windows
        self._pools = pools
        self._align = lcm(config.block_tokens, config.page_size)
        self._windowed = [g for g, window in enumerate(config.windows) if window is not None]
        self._roots: dict[str, RadixNode] = {}
        self._owners: list[dict[int, RadixNode]] = [{} for _ in pools]
        self.evictions = 0

    def first_kept(self, group: int, length: int) -> int:
        """The first token index that group `group` needs once `length` tokens are computed; what is before it may go.

        Attention sums over blocks of `block_tokens` keys by index in the table, and the sum must not depend on what was
        given back, so a table begins at a multiple of the block (and of the page). At least one whole page is kept, and
        counting is from whole pages, so that what a sequence keeps is enough for the next one to hit.
        """
        window = self._windows[group]
        if window is None:
            return 0
        needed = length // self._page_size * self._page_size - max(window - 1, 1)
        return max(0, needed // self._align * self._align)

    def match(self, tokens: Sequence[int], salt: Salt) -> list[RadixNode]:
        """The nodes of the longest usable path over whole pages and at most len(tokens) - 1 tokens."""
        node = self._roots.get(salt.root)
        path: list[RadixNode] = []
        if node is None:
            return path
        size = self._page_size
        for start in range(0, (len(tokens) - 1) // size * size, size):
            key: PageKey = tuple(tokens[start : start + size])
            if salt.inner and start == salt.page * size:
                key = (salt.inner, *key)
            node = node.children.get(key)
            if node is None:
                break
            path.append(node)
        return self._usable(path) if self._windowed else path

    def _usable(self, path: list[RadixNode]) -> list[RadixNode]:
        """The longest beginning of `path` after which every window group still has the pages it needs."""
        usable = 0
        run_start = dict.fromkeys(self._windowed, 0)  # first page of the gapless run up to here
        for depth, node in enumerate(path, start=1):
            for g in self._windowed:
                if not node.pages[g]:
                    run_start[g] = depth
            length = depth * self._page_size
            if all(run_start[g] * self._page_size <= self.first_kept(g, length) for g in self._windowed):
                usable = depth
        return path[:usable]

    def beginning(self, path: Sequence[RadixNode], tokens: Sequence[int], salt: Salt) -> tuple[RadixNode, int] | None:
        """The node after `path`, which `match` found for `tokens`, whose page begins with most of the tokens that
        follow, all but the last one, and how many those are: less than a page. None if there is no such node, if some
        group lacks its page, or if it is not worth copying."""
        size, start = self._page_size, len(path) * self._page_size
        rest = tuple(tokens[start : min(start + size - 1, len(tokens) - 1)])
        above = path[-1] if path else self._roots.get(salt.root)
        if above is None or not rest:
            return None
        wanted = salt.key(len(path), rest)
        keys = above.among(wanted)
        at = bisect_left(keys, wanted)
        best, most = None, len(wanted) - len(rest) + LEAST_COPIED - 1
        for key in keys[max(at - 1, 0) : at + 1]:
            common = _common(key, wanted)
            if common > most:
                best, most = above.children[key], common
        return None if best is None or not all(best.pages) else (best, most - len(wanted) + len(rest))

    def has_beginning(self, parent: RadixNode | None, key: PageKey, salt: str) -> bool:
        """Whether some node after `parent` begins with `key`."""
        above = self._roots.get(salt) if parent is None else parent
        if above is None:
            return False
        keys = above.among(key)
        at = bisect_left(keys, key)
        return at < len(keys) and keys[at][: len(key)] == key

    def child(self, parent: RadixNode | None, key: PageKey, salt: str) -> RadixNode | None:
        """The node of `key` after `parent`, or after the root of `salt` where parent is None."""
        above = self._roots.get(salt) if parent is None else parent
        return above.children.get(key) if above and above.children else None

    def add(self, parent: RadixNode | None, key: PageKey, salt: str) -> RadixNode:
        """A new node without pages; the caller gives it some at once. A ragged leaf that it makes useless goes."""
        if parent is None:
            parent = self._roots.get(salt)
            if parent is None:
                parent = self._roots[salt] = RadixNode((), None, [0] * len(self._pools), salt)
        node = RadixNode(key, parent, [0] * len(self._pools), salt)
        parent.children[key] = node
        keys = parent.among(key)
        if not keys:
            keys.append(key)
            return node
        at = bisect_left(keys, key)
        before = keys[at - 1] if at else key
        keys.insert(at, key)
        if len(before) < len(key) and key[: len(before)] == before:
            self._drop_leaf(parent.children[before], parent)
        return node

    def _drop_leaf(self, leaf: RadixNode, parent: RadixNode) -> None:
        parent.disown(leaf)
        for group, page in enumerate(leaf.pages):
            if page:
                self._withdraw(leaf, group)

    def give(self, node: RadixNode, group: int, page: int) -> None:
        """The node takes a reference to a page that a sequence holds."""
        node.pages[group] = page
        self._owners[group][page] = node
        self._pools[group].learn(page)

    def evict(self, group: int) -> None:
        """Frees the least recently used page of `group` that no sequence holds (there must be one)."""
        self.evictions += 1
        pool = self._pools[group]
        page = next(iter(pool.idle))
        node = self._owners[group][page]
        parent = node.parent
        if node.children or len(node.pages) > 1 or parent is None or not (parent.depth and parent.pages[group]):
            self.give_up(group, page)
            return
        parent.disown(node)  # what follows is `give_up` of a leaf, and is what nearly every new page takes
        node.pages[group] = 0
        del self._owners[group][page]
        pool.forget(page)

    def give_up(self, group: int, page: int) -> None:
        """The tree lets go of a page of `group` that it knows, whether a sequence holds it or not."""
        node = self._owners[group][page]
        if self._windows[group] is None:
            self._remove(node)
        else:
            self._withdraw(node, group)
            if not node.children and not any(node.pages):
                self._remove(node)

    def forget(self, tokens: Sequence[int], salt: Salt) -> int:
        """Takes the end of a path out of the tree, its ragged leaf first, as far as no sequence holds it and no other
        path goes on from it. How many tokens."""
        path, dropped = self.match((*tokens, 0), salt), 0
        above = path[-1] if path else self._roots.get(salt.root)
        rest = tuple(tokens[len(path) * self._page_size :])
        for leaf in list(above.children.values()) if above else ():
            count = len(leaf.tokens)
            if count < self._page_size and leaf.key == salt.key(len(path), rest[:count]) and self._unused(leaf):
                self._remove(leaf)
                dropped = max(dropped, count)
        for node in reversed(path):
            if node.parent is not None:  # else it went with what followed it: it had no page any more
                if node.children or not self._unused(node):
                    break
                self._remove(node)
            dropped += self._page_size
        return dropped

    def _unused(self, node: RadixNode) -> bool:
        """Whether no sequence holds a page of it."""
        return all(not page or page in pool.idle for page, pool in zip(node.pages, self._pools, strict=True))

    def _withdraw(self, node: RadixNode, group: int) -> None:
        page = node.pages[group]
        node.pages[group] = 0
        del self._owners[group][page]
        self._pools[group].forget(page)

    def _remove(self, node: RadixNode) -> None:
        """Takes a node and all below it out of the tree, and the nodes above that are left without any use."""
        parent = node.parent
        assert parent is not None, "a root is never evicted"
        parent.disown(node)
        below = [node]
        while below:
            gone = below.pop()
            if gone.children:
                below.extend(gone.children.values())
                gone.children, gone.ordered, gone.private = {}, [], []
            gone.parent = None
            for group, page in enumerate(gone.pages):
                if page:
                    self._withdraw(gone, group)
        while not parent.children and not any(parent.pages):
            above = parent.parent
            if above is None:
                del self._roots[parent.salt]
                return
            above.disown(parent)
            parent = above

    def check(self) -> None:
        seen: list[dict[int, RadixNode]] = [{} for _ in self._pools]
        todo = list(self._roots.values())
        for salt, root in self._roots.items():
            assert root.salt == salt, "a root under another salt"
            assert root.depth == 0, "a root below another node"
            assert root.children, "a root without children"
        while todo:
            node = todo.pop()
            for keys in (node.ordered, node.private):
                mine = [key for key in node.children if node.among(key) is keys]
                assert keys == sorted(mine), "children out of order"
            for key, child in node.children.items():
                assert child.key == key, "a node under another key"
                assert child.parent is node, "a node that does not know its parent"
                assert child.depth == node.depth + 1, "a node at the wrong depth"
                assert 0 < len(child.tokens) <= self._page_size, "a node that is not a page"
                assert len(child.tokens) == self._page_size or not child.children, "a ragged node that is no leaf"
                assert child.children or any(child.pages), "a node without pages or children"
                todo.append(child)
                for g, page in enumerate(child.pages):
                    assert page or self._windows[g] is not None, "a gap in a full group"
                    assert page not in seen[g] or not page, f"page {page} in two nodes"
                    if page:
                        seen[g][page] = child
        assert seen == self._owners, "owners are not the nodes of the tree"
        for g, pool in enumerate(self._pools):
            assert pool.known == set(seen[g]), "the pool and the tree disagree about what is known"


def _common(a: PageKey, b: PageKey) -> int:
    """Length of the longest common prefix of two keys."""
    for count, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return count
    return min(len(a), len(b))
