"""Paged attention of single rows: keys split over programs, the heads of a group packed, partials merged in order.

The work is a list of items, (row, sequence, first key, end, which of the rows), made on the host: the same launch
serves any lengths, so it can be captured. A row of one item is done when that is. Of several, each leaves (max, sum,
output), and whichever ends last merges them all in ascending order, so that the result does not depend on which that
is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from plait.ops.cuda.kernels.rows import Tickets
from plait.ops.cuda.kernels.runtime import Launched, begin, overlap, power, tile
from plait.ops.cuda.kernels.shared import SharedItems, shared_partials
from plait.ops.cuda.kernels.tiles import block_slots, scores, softmax_step
from plait.ops.cuda.sharing import MEMBERS

LOG2_E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class Pages:
    """Where a KV group's keys lie, int32: `table` holds the sequences' entries one after another, sequence s from
    starts[s]; an entry stands for `page` slots. `positions` has one for each slot."""

    table: torch.Tensor
    starts: torch.Tensor
    positions: torch.Tensor
    page: int


@dataclass(frozen=True, slots=True)
class DecodeItems:
    """int32. `items` (5, capacity): row, sequence, first key, end, which of the listed rows. `rows` (2, capacity): row,
    its first item; row i's items end where those of i + 1 begin. `counts`: how many items, how many rows."""

    items: torch.Tensor
    rows: torch.Tensor
    counts: torch.Tensor
    shared: SharedItems | None = None


@triton.jit
def _add_part(part_top, part_total, part_acc, top, total, acc):
    new_top = tl.maximum(top, part_top)
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    old, new = tl.exp2(top - base), tl.exp2(part_top - base)
    return new_top, total * old + part_total * new, acc * old[:, None] + part_acc * new[:, None]


@Launched
@triton.jit(do_not_specialize=["capacity", "row_capacity", "of_row_stride"])
def _decode(
    q, k, v, row_positions, table, starts, positions, items, rows, counts, capacity, row_capacity, of_row,
    of_row_stride, tickets, part_out, part_top, part_sum, sinks, out, scale, cap, window, KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    SINKS: tl.constexpr, MEMBERS: tl.constexpr, PAGE: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    begin(PDL)
    # The heads of an item run together: their keys lie side by side.
    item, kv_head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    if item < tl.load(counts):
        row = tl.load(items + item).to(tl.int64)
        sequence = tl.load(items + capacity + item)
        first = tl.load(items + 2 * capacity + item)
        last = tl.load(items + 3 * capacity + item)
        which = tl.load(items + 4 * capacity + item)
        at = tl.load(row_positions + row)
        pages = table + tl.load(starts + sequence)
        g, d, e = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
        head, heads = kv_head * GROUP + g, KV_HEADS * GROUP
        inside = (g < GROUP)[:, None] & (e < V_DIM)[None, :]
        query = tl.load(q + (row * heads + head)[:, None] * DIM + d[None, :],
                        mask=(g < GROUP)[:, None] & (d < DIM)[None, :], other=0.0).to(k.dtype.element_ty)  # fmt: skip
        top = tl.full((BLOCK_G,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_G,), tl.float32)
        acc = tl.zeros((BLOCK_G, BLOCK_V), tl.float32)
        for start in tl.range(first, last, BLOCK_N, num_stages=STAGES):
            slot, visible = block_slots(pages, start, last, BLOCK_N, PAGE)
            away = at - tl.load(positions + slot, mask=visible, other=0)
            key = tl.load(k + (slot * KV_HEADS + kv_head)[None, :] * DIM + d[:, None],
                          mask=visible[None, :] & (d < DIM)[:, None], other=0.0)  # fmt: skip
            value = tl.load(v + (slot * KV_HEADS + kv_head)[:, None] * V_DIM + e[None, :],
                            mask=visible[:, None] & (e < V_DIM)[None, :], other=0.0)  # fmt: skip
            visible = visible & (away >= 0)
            if WINDOWED:
                visible = visible & (away < window)
            s = tl.where(visible[None, :], scores(query, key, scale, cap, CAPPED), float("-inf"))
            top, total, acc = softmax_step(s, tl.where(visible[:, None], value, 0.0), top, total, acc)
        begun, ended = tl.load(rows + row_capacity + which), tl.load(rows + row_capacity + which + 1)
        alone = ended - begun == 1
        merges = alone
        if ended - begun > 1:
            part = item.to(tl.int64) * heads + head
            tl.store(part_top + part, top, mask=g < GROUP)
            tl.store(part_sum + part, total, mask=g < GROUP)
            tl.store(part_out + part[:, None] * V_DIM + e[None, :], acc, mask=inside)
            tl.debug_barrier()
            # Items beyond one for each row, before this row: different for each row of several.
            ticket = tickets + (begun - which) * KV_HEADS + kv_head
            merges = tl.atomic_add(ticket, 1, sem="acq_rel") == ended - begun - 1
            if merges:
                tl.store(ticket, 0)
        if merges:
            all_top = tl.full((BLOCK_G,), float("-inf"), tl.float32)
            all_total = tl.zeros((BLOCK_G,), tl.float32)
            all_acc = tl.zeros((BLOCK_G, BLOCK_V), tl.float32)
            if SINKS:
                all_top = tl.load(sinks + head, mask=g < GROUP, other=0.0).to(tl.float32) * 1.4426950408889634
                all_total += 1.0
            if MEMBERS > 0:
                shared, place = tl.load(of_row + which), tl.load(of_row + 2 * of_row_stride + which)
                for other in range(shared, shared + tl.load(of_row + of_row_stride + which)):
                    part = (capacity + other * MEMBERS + place) * heads + head
                    all_top, all_total, all_acc = _add_part(
                        tl.load(part_top + part, mask=g < GROUP, other=0.0),
                        tl.load(part_sum + part, mask=g < GROUP, other=0.0),
                        tl.load(part_out + part[:, None] * V_DIM + e[None, :], mask=inside, other=0.0),
                        all_top, all_total, all_acc,
                    )  # fmt: skip
            if alone:
                all_top, all_total, all_acc = _add_part(top, total, acc, all_top, all_total, all_acc)
            else:
                for other in tl.range(begun, ended, loop_unroll_factor=8):
                    part = other * heads + head
                    all_top, all_total, all_acc = _add_part(
                        tl.load(part_top + part, mask=g < GROUP, other=0.0, cache_modifier=".cg"),
                        tl.load(part_sum + part, mask=g < GROUP, other=0.0, cache_modifier=".cg"),
                        tl.load(part_out + part[:, None] * V_DIM + e[None, :], mask=inside, other=0.0,
                                cache_modifier=".cg"),
                        all_top, all_total, all_acc,
                    )  # fmt: skip
            value = all_acc / tl.where(all_total == 0, 1.0, all_total)[:, None]
            tl.store(out + (row * heads + head)[:, None] * V_DIM + e[None, :], value.to(out.dtype.element_ty),
                     mask=inside)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """What an attention layer computes."""

    scale: float
    softcap: float | None
    window: int | None
    sinks: torch.Tensor | None


STAGES = 2
MANY_ROWS = 64
"""With more, programs are many, and small ones serve better: several on a multiprocessor at once."""


def block_keys(dim: int, itemsize: int) -> int:
    """Keys of a block: as many as two stages of K and V leave room for, at most 128."""
    return max(16, min(128, 32768 // (dim * itemsize)))


def decode_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row_positions: torch.Tensor, pages: Pages, work: DecodeItems,
    tickets: Tickets, shape: Shape, out: torch.Tensor,
) -> None:  # fmt: skip
    """Attention of the rows that `work` lists, into those rows of `out` (rows, n_heads * v_dim).

    q (rows, n_heads * dim) contiguous; k and v (slots, kv_heads, dim) of this layer. `tickets` has at least as many as
    there are items beyond one for each row, times kv_heads."""
    kv_heads, dim = k.shape[1:]
    v_dim, heads, capacity = v.shape[2], q.shape[1] // dim, work.items.shape[1]
    group = heads // kv_heads
    shared, lanes = work.shared, 0 if work.shared is None else MEMBERS * work.shared.items.shape[1]
    part_out = torch.empty((capacity + lanes, heads, v_dim), dtype=torch.float32, device=q.device)
    part_top, part_sum = (
        torch.empty((capacity + lanes, heads), dtype=torch.float32, device=q.device) for _ in range(2)
    )
    many, keys = work.rows.shape[1] - 1 > MANY_ROWS, block_keys(max(tile(dim), tile(v_dim)), k.element_size())
    scale, cap = shape.scale * LOG2_E, (shape.softcap or 1.0) * LOG2_E
    common = {
        "KV_HEADS": kv_heads, "GROUP": group, "DIM": dim, "V_DIM": v_dim, "CAPPED": shape.softcap is not None,
        "PAGE": pages.page, "BLOCK_D": tile(dim), "BLOCK_V": tile(v_dim),
    } | overlap(q.device)  # fmt: skip
    if shared is not None:
        wide = dim > 128 or k.element_size() > 2
        shared_partials[(shared.items.shape[1], kv_heads)](
            q, k, v, pages.table, pages.starts, shared.items, shared.members, shared.count, shared.items.shape[1],
            capacity, part_out, part_top, part_sum, scale, cap, MEMBERS=MEMBERS, BLOCK_G=power(group),
            BLOCK_N=32 if wide else 64, STAGES=2 if wide else 3, num_warps=8, **common,
        )  # fmt: skip
    of_row = work.rows if shared is None else shared.of_row
    _decode[(capacity * kv_heads,)](
        q, k, v, row_positions, pages.table, pages.starts, pages.positions, work.items, work.rows, work.counts,
        capacity, work.rows.shape[1], of_row, of_row.shape[1], tickets.zeros, part_out, part_top, part_sum, shape.sinks,
        out, scale, cap, shape.window or 0, WINDOWED=shape.window is not None, SINKS=shape.sinks is not None,
        MEMBERS=0 if shared is None else MEMBERS, BLOCK_G=tile(group), BLOCK_N=max(16, keys // 2) if many else keys,
        STAGES=STAGES, num_warps=2 if many else 4, **common,
    )  # fmt: skip
