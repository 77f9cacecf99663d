"""A naive model of the KV cache, run beside the real one: what `test_cache_machine` and `test_cache_soak` drive.

Every sequence is a plain list of (content, position). KV memory is a dict from slot to (content, position) that does
the edits and stores of each step as a backend would. After each step, every sequence read back through its page tables
must be what the model says. The content of a token is a digest of all that it was computed from.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.cache.radix import LEAST_COPIED
from plait.errors import OutOfPagesError

Item = tuple[int, int]  # content, position


@dataclass
class Model:
    salt: str = ""
    items: list[Item] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # ids, while the sequence is the scheduler's
    launched: int = 0  # tokens whose step was started
    plain: bool = True  # untouched by sequence operations
    caching: bool = True
    passing: bool = False

    @property
    def next_position(self) -> int:
        return max((position for _, position in self.items), default=-1) + 1

    def grow(self, token: int, position: int) -> Item:
        item = (hash((self.salt, tuple(self.items), token)), position)
        self.items.append(item)
        return item


def in_range(position: int, p0: int, p1: int) -> bool:
    return position >= p0 and (p1 < 0 or position < p1)


class World:
    def __init__(self, config: CacheConfig) -> None:
        self.config = config
        self.size = config.page_size
        self.cache = KVCache(config)
        self.groups = range(len(config.num_pages))
        self.models: dict[int, Model] = {}
        self.memory: list[dict[int, Item]] = [{} for _ in self.groups]
        self.stores: list[dict[int, Item]] = [{} for _ in self.groups]  # of the step being planned

    # --- looking ------------------------------------------------------------------------------------------------------

    def slots(self, seq: int, group: int) -> list[int]:
        return [page * self.size + first + i for page, first, n in self.cache.table(seq, group) for i in range(n)]

    def start(self, seq: int, group: int) -> int:
        """Tokens that a window group no longer has."""
        return len(self.models[seq].items) - len(self.slots(seq, group))

    def trimmed(self, seq: int) -> bool:
        return seq in self.models and any(self.start(seq, g) for g in self.groups)

    def picture(self) -> object:
        tables = {(s, g): self.cache.table(s, g) for s in self.models for g in self.groups}
        sizes = {s: (self.cache.length(s), self.cache.committed(s)) for s in self.models}
        return tables, sizes, self.cache.stats()

    def check(self) -> None:
        self.cache.check()
        self.drop_stores()
        for seq, model in self.models.items():
            assert self.cache.length(seq) == len(model.items)
            assert self.cache.seq_pos_max(seq) == model.next_position - 1
            assert self.cache.seq_pos_min(seq) == min((p for _, p in model.items), default=-1)
            self.check_window(seq)
            self.check_shared(seq, model)

    def check_window(self, seq: int) -> None:
        for g, window in enumerate(self.config.windows):
            start = self.start(seq, g)
            if window is None:
                assert start == 0
            else:
                assert start <= max(0, self.cache.committed(seq) - window + 1)
                assert start % self.config.block_tokens == 0
                assert start % self.size == 0

    def check_shared(self, seq: int, model: Model) -> None:
        """Whole committed pages can be had by the next request at once."""
        if self.can_be_cached(model):
            tokens = model.tokens[: self.cache.committed(seq)]
            cached = self.cache.cached_prefix([*tokens, 0], model.salt)
            assert len(tokens) // self.size * self.size <= cached <= len(tokens)

    def drop_stores(self) -> None:
        """A store to a slot that was given up is not part of the step."""
        for g in self.groups:
            named = {slot for seq in self.models for slot in self.slots(seq, g)}
            self.stores[g] = {slot: item for slot, item in self.stores[g].items() if slot in named}

    def can_be_cached(self, model: Model) -> bool:
        return model.plain and model.caching and all(window is None for window in self.config.windows)

    # --- the scheduler's face -----------------------------------------------------------------------------------------

    def open(self, seq: int, tokens: list[int], salt: str, reuse: bool) -> None:
        if seq in self.models:
            with pytest.raises(ValueError, match="exists already"):
                self.cache.open(seq, tokens, salt, reuse)
            return
        promised = self.cache.cached_prefix(tokens, salt)
        length = self.cache.open(seq, tokens, salt, reuse)
        if reuse and length != promised:
            assert length == promised // self.size * self.size
            needed = -(-len(tokens) // self.size) - length // self.size
            assert any(self.cache.available(g) <= needed for g in self.groups), "room for a copy, and none is made"
        assert length == promised or not reuse or length % self.size == 0
        assert reuse or length == 0
        assert length <= max(0, len(tokens) - 1)
        model = self.models[seq] = Model(salt)
        for position, token in enumerate(tokens[:length]):
            model.grow(token, position)
            model.tokens.append(token)
        model.launched = length

    def forget(self, tokens: list[int], salt: str) -> None:
        """What sequences hold stays; what is dropped was cached."""
        before, cached = self.cache.cached_prefix([*tokens, 0], salt), self.cache.stats().cached
        dropped = self.cache.forget(tokens, salt)
        assert 0 <= dropped <= len(tokens)
        assert self.cache.cached_prefix([*tokens, 0], salt) <= before
        left = self.cache.stats().cached
        assert (sum(left) < sum(cached)) if dropped else (left == cached)

    def reserve(self, seq: int, tokens: list[int]) -> None:
        model = self.models[seq]
        before, needed = self.picture(), self.cache.pages_needed(seq, len(tokens))
        free = [self.cache.available(g) for g in self.groups]
        ragged = self.ragged(seq)
        spared = self.without_copies(seq, len(tokens), needed)
        slots = self.cache.reserve(seq, len(tokens))
        if slots is None:
            assert any(need > have for need, have in zip(spared, free, strict=True))
            assert self.picture() == before
            return
        assert all(need <= have for need, have in zip(spared, free, strict=True))
        model.plain = model.plain and not (ragged and tokens)
        for i, token in enumerate(tokens):
            item = model.grow(token, model.next_position)
            model.tokens.append(token)
            for g in self.groups:
                self.stores[g][slots[g][i]] = item

    def without_copies(self, seq: int, count: int, needed: tuple[int, ...]) -> list[int]:
        """The pages that `count` tokens need at least: those of a last page that no other table names go into it,
        though the tree may know it."""
        least = []
        for g in self.groups:
            table = self.cache.table(seq, g)
            users = sum(entry[0] == table[-1][0] for s in self.models for entry in self.cache.table(s, g) if table)
            room = self.size - table[-1][1] - table[-1][2] if table else 0
            least.append(-(-max(0, count - room) // self.size) if users == 1 and room else needed[g])
        return least

    def ragged(self, seq: int) -> bool:
        """Whether the next token goes to a new page because the last one is shared and not filled yet."""
        for g in self.groups:
            table = self.cache.table(seq, g)
            if table and table[-1][1] + table[-1][2] < self.size:
                page, end = table[-1][0], table[-1][1] + table[-1][2]
                users = sum(entry[0] == page for s in self.models for entry in self.cache.table(s, g))
                if users > 1 and any(page * self.size + i in self.stores[g] for i in range(end)):
                    return True
        return False

    def launch(self) -> None:
        """Run the planned step, and read everything back."""
        for g, edits in enumerate(self.cache.take_edits()):
            memory = self.memory[g]
            for src, dst, count in edits.copies:
                memory.update({dst + i: memory[src + i] for i in range(count)})
            for slot, position in edits.repositions:
                memory[slot] = (memory[slot][0], position)
            memory.update(self.stores[g])
            self.stores[g].clear()
        for seq, model in self.models.items():
            model.launched = len(model.items)
            for g in self.groups:
                read = [self.memory[g][slot] for slot in self.slots(seq, g)]
                assert read == model.items[len(model.items) - len(read) :], f"sequence {seq}, group {g}"

    def commit(self, seq: int, count: int, cacheable: bool) -> None:
        model, committed = self.models[seq], self.cache.committed(seq)
        count = min(count, model.launched - committed)
        if count <= 0:
            return
        tokens = model.tokens[committed : committed + count] if model.plain else [0] * count
        self.cache.commit(seq, tokens, cacheable)
        model.caching = model.caching and cacheable
        assert self.cache.committed(seq) == committed + count

    def roll_back(self, seq: int, tokens: list[int]) -> None:
        """Plan tokens, and give them up before the step."""
        length = len(self.models[seq].items)
        self.reserve(seq, tokens)
        self.truncate(seq, length)
        self.check()

    def uncommitted(self, seq: int) -> int:
        return self.models[seq].launched - self.cache.committed(seq)

    def serve(self, seq: int, tokens: list[int], salt: str, finish: bool) -> None:
        """A request from its prompt to its end, or as far as the prompt."""
        if seq in self.models:
            self.close(seq)
        self.open(seq, tokens, salt, True)
        self.reserve(seq, tokens[len(self.models[seq].items) :])
        self.launch()
        self.commit(seq, len(tokens), True)
        if finish:
            self.close(seq)

    def truncate(self, seq: int, length: int) -> None:
        model = self.models[seq]
        length = min(length, len(model.items))
        if not self.still_sees(seq, length):
            before = self.picture()
            with pytest.raises(ValueError, match="outside the window"):
                self.cache.truncate(seq, length)
            assert self.picture() == before
            return
        self.cache.truncate(seq, length)
        self.cut(model, length)

    def still_sees(self, seq: int, length: int) -> bool:
        return length == 0 or all(
            window is None or self.start(seq, g) <= max(0, length - window + 1)
            for g, window in enumerate(self.config.windows)
        )

    def cut(self, model: Model, length: int) -> None:
        del model.items[length:]
        del model.tokens[length:]
        model.launched = min(model.launched, length)

    def fork(self, src: int, dst: int) -> None:
        if dst in self.models:
            with pytest.raises(ValueError, match="exists already"):
                self.cache.fork(src, dst)
            return
        self.cache.fork(src, dst)
        self.models[dst] = self.twin(src)

    def twin(self, src: int) -> Model:
        model = self.models[src]
        return Model(
            model.salt, list(model.items), list(model.tokens), model.launched, model.plain, model.caching, False
        )

    def share_tail(self, seq: int) -> None:
        """As after a commit: nothing is planned that was not launched."""
        self.launch()
        self.cache.share_tail(seq)

    def close(self, seq: int) -> None:
        """All that was computed can be had by the next request, but for a ragged page that somebody else goes on
        writing to."""
        model = self.models.pop(seq)
        tokens = model.tokens[: self.cache.committed(seq)]
        full = len(tokens) // self.size
        pages = {entry[0] for g in self.groups for entry in self.cache.table(seq, g)[full : full + 1]}
        others = {entry[0] for s in self.models for g in self.groups for entry in self.cache.table(s, g)}
        self.cache.close(seq)
        self.drop_stores()
        if self.can_be_cached(model) and not pages & others:
            cached, ragged = self.cache.cached_prefix([*tokens, 0], model.salt), len(tokens) % self.size
            assert cached == len(tokens) or 0 < ragged < LEAST_COPIED

    # --- the memory API -----------------------------------------------------------------------------------------------

    def reserve_shared(self, seqs: tuple[int, ...], token: int, count: int, first: int | None) -> None:
        models = [self.models.get(seq) or Model(passing=True) for seq in seqs]
        begin = models[0].next_position if first is None else first
        before = self.picture()
        if any(m.next_position != begin and (m.items or first is None) for m in models):
            with pytest.raises(ValueError, match="continue"):
                self.cache.reserve_shared(seqs, count, first)
            assert self.picture() == before
            return
        reserved = self.cache.reserve_shared(seqs, count, first)
        if reserved is None:
            assert self.picture() == before
            return
        assert reserved.positions == tuple(range(begin, begin + count))
        items = [models[0].grow(token, position) for position in reserved.positions]
        for model in dict.fromkeys(map(id, models)):
            self.take_over(next(m for m in models if id(m) == model), items, first=model == id(models[0]))
        self.models.update(zip(seqs, models, strict=True))
        for g in self.groups:
            for row, slot in reserved.stores[g]:
                self.stores[g][slot] = items[row]

    def take_over(self, model: Model, items: list[Item], first: bool) -> None:
        model.plain = False
        model.tokens = []
        if not first:
            model.items.extend(items)

    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        copied = [item for item in self.items(src) if in_range(item[1], p0, p1)]
        before = self.picture()
        try:
            self.cache.seq_cp(src, dst, p0, p1)
        except ValueError:
            assert self.trimmed(src) or self.trimmed(dst)
            assert self.picture() == before
            return
        if src == dst or not copied:
            assert self.picture() == before
            return
        target = self.models.get(dst)
        if (target is None or not target.items) and copied == self.items(src)[: len(copied)]:
            target = self.models[dst] = self.twin(src)
            target.passing = True
            self.cut(target, len(copied))
            return
        target = self.models.setdefault(dst, Model(passing=True))
        least, greatest = min(p for _, p in copied), max(p for _, p in copied)
        at = next((i for i, item in enumerate(target.items) if item[1] > greatest), len(target.items))
        before_it = [item for item in target.items[:at] if not least <= item[1] <= greatest]
        after_it = [item for item in target.items[at:] if not least <= item[1] <= greatest]
        self.edit(target, before_it + copied + after_it)

    def items(self, seq: int) -> list[Item]:
        return self.models[seq].items if seq in self.models else []

    def edit(self, model: Model, items: list[Item]) -> None:
        model.items = items
        model.tokens = []
        model.plain = False
        model.launched = min(model.launched, len(items))

    def seq_rm(self, seq: int, p0: int, p1: int) -> None:
        before = self.picture()
        ids = list(self.models) if seq < 0 else [seq] if seq in self.models else []
        if not self.cache.seq_rm(seq, p0, p1):
            assert any(self.trimmed(s) for s in ids)
            assert self.picture() == before
            return
        for s in ids:
            model = self.models[s]
            kept = [item for item in model.items if not in_range(item[1], p0, p1)]
            if kept == model.items[: len(kept)]:
                self.cut(model, len(kept))
            else:
                self.edit(model, kept)
            if not kept and model.passing:
                del self.models[s]

    def seq_keep(self, seq: int) -> None:
        self.cache.seq_keep(seq)
        self.models = {s: model for s, model in self.models.items() if s == seq}

    def seq_add(self, seq: int, p0: int, p1: int, delta: int) -> None:
        self.move(seq, p0, p1, lambda p: p + delta, lambda: self.cache.seq_add(seq, p0, p1, delta))

    def seq_div(self, seq: int, p0: int, p1: int, d: int) -> None:
        self.move(seq, p0, p1, lambda p: p // d, lambda: self.cache.seq_div(seq, p0, p1, d))

    def move(self, seq, p0, p1, moved, call) -> None:  # type: ignore[no-untyped-def]
        """Positions move between steps: what is planned is run first, but edits may wait."""
        if any(self.stores):
            self.launch()
        self.check()
        before = self.picture()
        try:
            call()
        except OutOfPagesError:
            assert self.picture() == before
            return
        except ValueError:
            assert self.trimmed(seq)
            assert self.picture() == before
            return
        items = [(c, moved(p) if in_range(p, p0, p1) else p) for c, p in self.items(seq)]
        items = [(c, p) for c, p in items if p >= 0]
        if items != self.items(seq):
            self.edit(self.models[seq], items)

    def clear(self) -> None:
        self.cache.clear()
        self.models.clear()
        assert self.cache.stats().free == tuple(pages - 1 for pages in self.config.num_pages)
