"""A step's whole input as one array of int32, copied to the device in one piece; and where in it everything lies.

A layout has capacities, so that steps of many sizes share the addresses that a graph was captured with. Knows numpy,
torch and the step contract; knows no kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from plait.ops.api import I32Array, StepInputs
from plait.ops.cuda.sharing import MOST_ITEMS, find_shared
from plait.ops.cuda.work import SPLITS, I64Array, Sequences, Work, lengths_of, page_table, sequences_of, work_of

Tensor: TypeAlias = torch.Tensor
ALIGNED = 16
RING = 4
"""Host buffers in turn: one is written while the copies from the others may still wait."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What fits: token rows, rows that want logits, stores, items of single rows and of tiles, page tables' entries,
    items of what single rows share."""

    rows: int
    outputs: int
    stores: int
    items: int
    tiles: int
    groups: int
    entries: int
    shared: int = 0


@dataclass(frozen=True, slots=True)
class GroupTensors:
    """One KV group's part on the device, all int32."""

    store_row: Tensor
    store_slot: Tensor
    starts: Tensor
    items: Tensor  # (5, items)
    single: Tensor  # (2, rows + 1)
    counts: Tensor  # (2,): items and single rows
    tiles: Tensor  # (5, tiles)
    num_tiles: Tensor  # (1,)
    shared: Tensor  # (5, shared)
    members: Tensor  # (rows,)
    of_row: Tensor  # (3, rows)
    num_shared: Tensor  # (1,)


@dataclass(frozen=True, slots=True)
class StepTensors:
    """A step on the device, all int32. `page` is how many slots an entry of `table` stands for."""

    tokens: Tensor
    positions: Tensor
    out_rows: Tensor
    table: Tensor
    page: int
    groups: tuple[GroupTensors, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """A step with its work lists, before it is laid out."""

    step: StepInputs
    work: tuple[Work, ...]
    tables: tuple[tuple[I32Array, I32Array], ...]  # entries, starts
    page: int

    @property
    def entries(self) -> int:
        return sum(len(entries) for entries, _ in self.tables)


def pack_step(step: StepInputs, page_size: int, tile_rows: int, masked: tuple[bool, ...], kv_heads: int) -> Packed:
    """`masked[g]`: whether group g's keys must all be looked at by position."""
    sequences = sequences_of(step)
    tables = [page_table(inputs, page_size) for inputs in step.kv]
    if len({page for _, _, page in tables}) > 1:  # one group is ragged: all go slot by slot
        tables = [page_table(inputs, page_size, ragged=True) for inputs in step.kv]
    work = tuple(
        _work(sequences, lengths_of(inputs), table, page_size, tile_rows, mask, kv_heads)
        for inputs, table, mask in zip(step.kv, tables, masked, strict=True)
    )
    return Packed(step, work, tuple((entries, starts) for entries, starts, _ in tables), tables[0][2] if tables else 1)


def _work(
    sequences: Sequences, lengths: I64Array, table: tuple[I32Array, I32Array, int], page_size: int, tile_rows: int,
    masked: bool, kv_heads: int,
) -> Work:  # fmt: skip
    entries, starts, page = table
    if masked or page != page_size:
        return work_of(sequences, lengths, tile_rows, masked)
    shared = find_shared(entries, starts, lengths, sequences.single, sequences.single_row, page, kv_heads)
    return work_of(sequences, lengths, tile_rows, masked, shared)


def exact_capacity(packed: Packed) -> Capacity:
    """Room for this step and no other."""
    step = packed.step
    return Capacity(
        rows=len(step.tokens),
        outputs=len(step.out_rows),
        stores=max((len(kv.store_row) for kv in step.kv), default=0),
        items=max((work.items.shape[1] for work in packed.work), default=0),
        tiles=max((work.tiles.shape[1] for work in packed.work), default=0),
        groups=len(step.kv),
        entries=packed.entries,
        shared=max((work.shared.items.shape[1] for work in packed.work), default=0),
    )


def decode_capacity(rows: int, groups: int, entries: int, sharing: bool = False) -> Capacity:
    """Steps of one token for each of up to `rows` sequences."""
    return Capacity(rows, rows, rows, rows + SPLITS, 0, groups, entries, MOST_ITEMS if sharing else 0)


def mixed_capacity(
    rows: int, outputs: int, tile_rows: int, groups: int, entries: int, sharing: bool = False
) -> Capacity:
    """Steps of up to `rows` tokens of up to `outputs` sequences, and rows of logits."""
    tiles = -(-rows // tile_rows) + outputs
    return Capacity(rows, outputs, rows, outputs + SPLITS, tiles, groups, entries, MOST_ITEMS if sharing else 0)


def fits(packed: Packed, capacity: Capacity) -> bool:
    own = exact_capacity(packed)
    return all(getattr(own, name) <= getattr(capacity, name) for name in Capacity.__slots__)


def aligned(nbytes: int) -> int:
    """The least multiple of ALIGNED that is not below `nbytes`."""
    return -(-nbytes // ALIGNED) * ALIGNED


class Layout:
    """Where everything lies in the array: the parts in order, the page tables last, so that only what they use is
    copied. Each begins at a multiple of ALIGNED bytes: Triton compiles a kernel once more where a pointer does not."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._parts: dict[str, tuple[int, tuple[int, ...]]] = {}
        end = 0
        for name, shape in self._shapes(capacity):
            self._parts[name] = (end, shape)
            end = aligned(4 * (end + int(np.prod(shape)))) // 4
        self.table = end
        self.size = end + capacity.entries

    @staticmethod
    def _shapes(c: Capacity) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from (("tokens", (c.rows,)), ("positions", (c.rows,)), ("out_rows", (c.outputs,)))
        for g in range(c.groups):
            yield from ((f"{g}.store_row", (c.stores,)), (f"{g}.store_slot", (c.stores,)), (f"{g}.starts", (c.rows,)))
            yield from ((f"{g}.items", (5, c.items)), (f"{g}.single", (2, c.rows + 1)), (f"{g}.counts", (2,)))
            yield from ((f"{g}.tiles", (5, c.tiles)), (f"{g}.num_tiles", (1,)))
            rows = c.rows if c.shared else 0
            yield from ((f"{g}.shared", (5, c.shared)), (f"{g}.members", (rows,)), (f"{g}.of_row", (3, rows)))
            yield f"{g}.num_shared", (1,)

    def fill(self, host: I32Array, packed: Packed) -> int:
        """Writes a step that fits; returns how much of the array is used. Unused rows read no key and write to the
        reserved page."""
        host[: self.table] = 0
        step = packed.step
        self._put(host, "tokens", step.tokens)
        self._put(host, "positions", step.positions)
        self._put(host, "out_rows", step.out_rows)
        end = 0
        for g, (kv, work, (entries, starts)) in enumerate(zip(step.kv, packed.work, packed.tables, strict=True)):
            self._put(host, f"{g}.store_row", kv.store_row)
            self._put(host, f"{g}.store_slot", kv.store_slot)
            self._put(host, f"{g}.starts", starts[: self.capacity.rows] + end)
            self._put(host, f"{g}.items", work.items)
            self._put(host, f"{g}.single", work.rows)
            self._put(host, f"{g}.counts", np.array([work.items.shape[1], work.rows.shape[1] - 1], np.int32))
            self._put(host, f"{g}.tiles", work.tiles)
            self._put(host, f"{g}.num_tiles", np.array([work.tiles.shape[1]], np.int32))
            if self.capacity.shared:
                self._put(host, f"{g}.shared", work.shared.items)
                self._put(host, f"{g}.members", work.shared.members)
                self._put(host, f"{g}.of_row", work.shared.of_row)
                self._put(host, f"{g}.num_shared", np.array([work.shared.items.shape[1]], np.int32))
            host[self.table + end : self.table + end + len(entries)] = entries
            end += len(entries)
        return self.table + end

    def _put(self, host: I32Array, name: str, values: I32Array) -> None:
        start, shape = self._parts[name]
        view = host[start : start + math.prod(shape)].reshape(shape)
        if values.ndim == 1:
            view[: len(values)] = values
        else:
            view[:, : values.shape[1]] = values

    def tensors(self, device: Tensor, page: int) -> StepTensors:
        """The parts of the array on the device."""

        def part(name: str) -> Tensor:
            start, shape = self._parts[name]
            return device[start : start + int(np.prod(shape))].view(shape)

        names = ("store_row", "store_slot", "starts", "items", "single", "counts", "tiles", "num_tiles", "shared",
                 "members", "of_row", "num_shared")  # fmt: skip
        groups = tuple(GroupTensors(*(part(f"{g}.{name}") for name in names)) for g in range(self.capacity.groups))
        return StepTensors(
            part("tokens"), part("positions"), part("out_rows"), device[self.table : self.size], page, groups
        )


class Staging:
    """Host memory in turn, pinned where the device is a GPU, so that copies do not wait."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[Tensor] = [torch.empty(0, dtype=torch.uint8)] * RING
        self._copied: list[torch.cuda.Event | None] = [None] * RING
        self._next = 0

    def take(self, nbytes: int) -> Tensor:
        """A host buffer of at least so many bytes that no copy reads any more; `send` it before the next `take`."""
        index = self._next
        event = self._copied[index]
        if event is not None:
            event.synchronize()
        if len(self._buffers[index]) < nbytes:
            self._buffers[index] = torch.empty(2 * nbytes, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        return self._buffers[index]

    def send(self, target: Tensor, nbytes: int) -> None:
        """Copies the taken buffer's first bytes to the device; the host goes on at once."""
        index, self._next = self._next, (self._next + 1) % RING
        target[:nbytes].copy_(self._buffers[index][:nbytes], non_blocking=True)
        if self._device.type == "cuda":
            event = self._copied[index] or torch.cuda.Event()
            event.record()
            self._copied[index] = event
