"""Paged attention of several rows of a sequence, after FlashAttention-2 (Dao, arXiv:2307.08691): a tile of rows, with
the heads of a group packed beside them, goes once over the sequence's keys.

Items are (first row, rows, sequence, keys, full): the first `full` keys are seen by every row of the item, so they need
no mask; the rest is masked by position.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from plait.ops.cuda.kernels.decode import LOG2_E, Pages, Shape
from plait.ops.cuda.kernels.runtime import Launched, begin, overlap, power, tile
from plait.ops.cuda.kernels.tiles import block_slots, scores, softmax_step

TILE_ROWS = 128
"""Rows of a tile, heads of a group counted."""
KEYS, WIDE_KEYS, STAGES, WARPS = 64, 32, 3, 4
"""Keys of a block (wide: of float32, or of more than 128 numbers a head), stages of the pipeline, warps."""


@Launched
@triton.jit(do_not_specialize=["capacity"])
def _prefill(
    q, k, v, row_positions, table, starts, positions, items, counts, capacity, sinks, out, scale, cap, window,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr, CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr, SINKS: tl.constexpr, PAGE: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    begin(PDL)
    # The last tiles see the most keys: they go first.
    item, kv_head = tl.load(counts) - 1 - tl.program_id(0), tl.program_id(1)
    if item >= 0:
        first_row = tl.load(items + item)
        num_rows = tl.load(items + capacity + item)
        pages = table + tl.load(starts + tl.load(items + 2 * capacity + item))
        last = tl.load(items + 3 * capacity + item)
        full = tl.load(items + 4 * capacity + item) // BLOCK_N * BLOCK_N
        m, d, e = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
        head = kv_head * GROUP + m % BLOCK_G
        live = (m // BLOCK_G < num_rows) & (m % BLOCK_G < GROUP)
        row = (first_row + m // BLOCK_G).to(tl.int64)
        at = tl.load(row_positions + row, mask=live, other=-1)
        query = tl.load(q + (row * KV_HEADS * GROUP + head)[:, None] * DIM + d[None, :],
                        mask=live[:, None] & (d < DIM)[None, :], other=0.0).to(k.dtype.element_ty)  # fmt: skip
        top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        acc = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
        for start in tl.range(0, full, BLOCK_N, num_stages=STAGES):
            slot, _ = block_slots(pages, start, full, BLOCK_N, PAGE)
            key = tl.load(
                k + (slot * KV_HEADS + kv_head)[None, :] * DIM + d[:, None], mask=(d < DIM)[:, None], other=0.0
            )
            value = tl.load(v + (slot * KV_HEADS + kv_head)[:, None] * V_DIM + e[None, :], mask=(e < V_DIM)[None, :],
                            other=0.0)  # fmt: skip
            top, total, acc = softmax_step(scores(query, key, scale, cap, CAPPED), value, top, total, acc)
        spoiled = tl.zeros((BLOCK_M,), tl.int32)
        for start in tl.range(full, last, BLOCK_N, num_stages=1):
            slot, present = block_slots(pages, start, last, BLOCK_N, PAGE)
            away = at[:, None] - tl.load(positions + slot, mask=present, other=0)[None, :]
            visible = present[None, :] & (away >= 0)
            if WINDOWED:
                visible = visible & (away < window)
            key = tl.load(k + (slot * KV_HEADS + kv_head)[None, :] * DIM + d[:, None],
                          mask=present[None, :] & (d < DIM)[:, None], other=0.0)  # fmt: skip
            value = tl.load(v + (slot * KV_HEADS + kv_head)[:, None] * V_DIM + e[None, :],
                            mask=present[:, None] & (e < V_DIM)[None, :], other=0.0)  # fmt: skip
            # 0 * NaN is NaN: a value that is not finite is taken out, and spoils only the rows that see it.
            sound = value.to(tl.float32) * 0.0 == 0.0
            bad = tl.max((~sound).to(tl.int32), 1)
            spoiled = tl.maximum(spoiled, tl.max(tl.where(visible, bad[None, :], 0), 1))
            value = tl.where(sound, value, 0.0)
            s = tl.where(visible, scores(query, key, scale, cap, CAPPED), float("-inf"))
            top, total, acc = softmax_step(s, value, top, total, acc)
        if SINKS:
            sink = tl.load(sinks + head, mask=live, other=0.0).to(tl.float32) * 1.4426950408889634
            new_top = tl.maximum(top, sink)
            total = total * tl.exp2(top - new_top) + tl.exp2(sink - new_top)
            acc = acc * tl.exp2(top - new_top)[:, None]
        value = acc / tl.where(total == 0, 1.0, total)[:, None]
        value = tl.where((spoiled > 0)[:, None], float("nan"), value)
        tl.store(out + (row * KV_HEADS * GROUP + head)[:, None] * V_DIM + e[None, :], value.to(out.dtype.element_ty),
                 mask=live[:, None] & (e < V_DIM)[None, :])  # fmt: skip


def rows_of_tile(group: int) -> int:
    """Rows of an item for heads in groups of `group`."""
    return max(1, TILE_ROWS // power(group))


def prefill_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row_positions: torch.Tensor, pages: Pages, items: torch.Tensor,
    counts: torch.Tensor, shape: Shape, out: torch.Tensor,
) -> None:  # fmt: skip
    """Attention of the rows of `items`, (5, capacity) int32, of which counts[0] exist, into those rows of `out`.

    q (rows, n_heads * dim) contiguous; k and v (slots, kv_heads, dim) of this layer."""
    kv_heads, dim = k.shape[1:]
    v_dim, heads, capacity = v.shape[2], q.shape[1] // dim, items.shape[1]
    group = heads // kv_heads
    wide = dim > 128 or k.element_size() > 2
    _prefill[(capacity, kv_heads)](
        q, k, v, row_positions, pages.table, pages.starts, pages.positions, items, counts, capacity, shape.sinks, out,
        shape.scale * LOG2_E, (shape.softcap or 1.0) * LOG2_E, shape.window or 0, KV_HEADS=kv_heads, GROUP=group,
        DIM=dim, V_DIM=v_dim, CAPPED=shape.softcap is not None, WINDOWED=shape.window is not None,
        SINKS=shape.sinks is not None, PAGE=pages.page, BLOCK_G=power(group),
        BLOCK_M=rows_of_tile(group) * power(group), BLOCK_D=tile(dim), BLOCK_V=tile(v_dim),
        BLOCK_N=WIDE_KEYS if wide else KEYS, STAGES=2 if wide else STAGES, num_warps=8 if wide else WARPS,
        **overlap(q.device),
    )  # fmt: skip
