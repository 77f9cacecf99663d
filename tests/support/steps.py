"""Drives an Executable without the scheduler: hands out pages, packs steps, gives each sequence its logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from plait.formats.tensor import F32Array
from plait.ops.api import Executable, I32Array, KVConfig, KVInputs, SlotCopy, StepInputs


def i32(values: object) -> I32Array:
    return np.asarray(values, np.int32)


@dataclass(frozen=True)
class Chunk:
    """The next tokens of one sequence. `outputs` are the rows, by index in `tokens`, that want logits."""

    tokens: Sequence[int]
    outputs: Sequence[int] = ()

    @staticmethod
    def every(tokens: Sequence[int]) -> Chunk:
        return Chunk(tokens, range(len(tokens)))

    @staticmethod
    def last(tokens: Sequence[int]) -> Chunk:
        return Chunk(tokens, (len(tokens) - 1,))


@dataclass
class SequenceState:
    """Where a sequence's keys lie: per group a list of pages, filled in order; and how many tokens it has."""

    pages: list[list[int]]
    length: int = 0


@dataclass
class Driver:
    """`rng` shuffles the free pages, so that a sequence's pages lie anywhere; without it they are handed out in order.
    Window groups keep all their pages, too: what a window hides is masked."""

    executable: Executable
    config: KVConfig
    rng: np.random.Generator | None = None
    sequences: dict[str, SequenceState] = field(default_factory=dict)
    _free: list[list[int]] = field(init=False)
    _copies: list[list[SlotCopy]] = field(init=False)

    def __post_init__(self) -> None:
        self._copies = [[] for _ in self.config.num_pages]
        self._free = [list(range(1, n)) for n in self.config.num_pages]
        for pages in self._free:
            if self.rng is not None:
                self.rng.shuffle(pages)

    def step(self, chunks: Mapping[str, Chunk]) -> dict[str, F32Array]:
        """Runs one step with these chunks, in this order; returns each sequence's logits, (its outputs, vocabulary)."""
        inputs = self.pack(chunks)
        logits = np.array(self.executable.run(inputs))  # a copy: the result is valid until the next run only
        ends = np.cumsum([len(chunk.outputs) for chunk in chunks.values()])
        return dict(zip(chunks, np.split(logits, ends[:-1]), strict=True))

    def pack(self, chunks: Mapping[str, Chunk]) -> StepInputs:
        """Reserves slots for these chunks and packs them; the sequences are longer afterwards."""
        tokens, positions, row_seq, out_rows = [], [], [], []
        groups = [_Packed() for _ in self.config.num_pages]
        for s, (name, chunk) in enumerate(chunks.items()):
            state = self.sequences.setdefault(name, SequenceState([[] for _ in groups]))
            out_rows += [len(tokens) + i for i in chunk.outputs]
            rows = range(len(tokens), len(tokens) + len(chunk.tokens))
            places = range(state.length, state.length + len(chunk.tokens))
            tokens += list(chunk.tokens)
            positions += list(places)
            row_seq += [s] * len(chunk.tokens)
            state.length += len(chunk.tokens)
            for g, packed in enumerate(groups):
                self._reserve(g, state)
                packed.store += [(row, self.slot(name, place, g)) for row, place in zip(rows, places, strict=True)]
                packed.entries += self.table(name, g)
                packed.starts.append(len(packed.entries))
        kv = tuple(packed.inputs(copies) for packed, copies in zip(groups, self._copies, strict=True))
        self._copies = [[] for _ in groups]
        return StepInputs(i32(tokens), i32(positions), i32(row_seq), i32(out_rows), kv)

    def fork(self, source: str, target: str) -> None:
        """`target` goes on from where `source` is: whole pages shared, the ragged end copied by the next step."""
        state, size = self.sequences[source], self.config.page_size
        whole, rest = divmod(state.length, size)
        forked = SequenceState([pages[:whole] for pages in state.pages], state.length)
        self.sequences[target] = forked
        for g in range(len(self._free)):
            self._reserve(g, forked)
            if rest:
                ends = (self.slot(name, whole * size, g) for name in (source, target))
                self._copies[g].append(SlotCopy(*ends, rest))

    def move(self, name: str) -> None:
        """Saves a sequence's slots and restores them in other pages, as after preemption; not while copies wait."""
        state = self.sequences[name]
        for g in range(len(self._free)):
            saved = self.executable.read_slots(g, self.slots(name, g))
            state.pages[g] = []
            self._reserve(g, state)
            self.executable.write_slots(g, self.slots(name, g), saved)

    @property
    def copies_wait(self) -> bool:
        return any(self._copies)

    def table(self, name: str, group: int = 0) -> list[tuple[int, int, int]]:
        state, size = self.sequences[name], self.config.page_size
        counts = [min(size, state.length - i * size) for i in range(len(state.pages[group]))]
        return [(page, 0, count) for page, count in zip(state.pages[group], counts, strict=True)]

    def slot(self, name: str, place: int, group: int = 0) -> int:
        size = self.config.page_size
        return self.sequences[name].pages[group][place // size] * size + place % size

    def slots(self, name: str, group: int = 0) -> I32Array:
        return i32([self.slot(name, place, group) for place in range(self.sequences[name].length)])

    def _reserve(self, group: int, state: SequenceState) -> None:
        while len(state.pages[group]) * self.config.page_size < state.length:
            state.pages[group].append(self._free[group].pop(0))


@dataclass
class _Packed:
    starts: list[int] = field(default_factory=lambda: [0])
    entries: list[tuple[int, int, int]] = field(default_factory=list)
    store: list[tuple[int, int]] = field(default_factory=list)

    def inputs(self, copies: Sequence[SlotCopy]) -> KVInputs:
        store: npt.NDArray[np.int32] = i32(self.store).reshape(-1, 2)
        return KVInputs(
            i32(self.starts),
            i32(self.entries).reshape(-1, 3),
            np.ascontiguousarray(store[:, 0]),
            np.ascontiguousarray(store[:, 1]),
            tuple(copies),
        )
