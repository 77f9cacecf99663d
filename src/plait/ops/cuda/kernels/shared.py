"""Attention of many single rows to a beginning that they share: its keys are read once for the rows of an item, each
with the heads of its group beside it. Leaves partials for `decode`'s merge. No key is masked: all of them are before
every row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from plait.ops.cuda.kernels.runtime import Launched, begin
from plait.ops.cuda.kernels.tiles import block_slots, scores, softmax_step


@dataclass(frozen=True, slots=True)
class SharedItems:
    """int32. `items` (5, capacity): first member, members, sequence, first key, end; `members` their rows; `of_row`
    (3, rows): of each single row its first item, how many, its place among their members; `count`: of the items."""

    items: torch.Tensor
    members: torch.Tensor
    of_row: torch.Tensor
    count: torch.Tensor


@Launched
@triton.jit(do_not_specialize=["capacity", "base"])
def shared_partials(
    q, k, v, table, starts, items, members, count, capacity, base, part_out, part_top, part_sum, scale, cap,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr, CAPPED: tl.constexpr,
    PAGE: tl.constexpr, MEMBERS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_N: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Partials of the item's members lie from part `base` on, MEMBERS for each item."""
    begin(PDL)
    item, kv_head = tl.program_id(0), tl.program_id(1)
    if item < tl.load(count):
        first_member, num = tl.load(items + item), tl.load(items + capacity + item)
        pages = table + tl.load(starts + tl.load(items + 2 * capacity + item))
        first, last = tl.load(items + 3 * capacity + item), tl.load(items + 4 * capacity + item)
        m, d, e = tl.arange(0, MEMBERS * BLOCK_G), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
        member, head = m // BLOCK_G, kv_head * GROUP + m % BLOCK_G
        live = (member < num) & (m % BLOCK_G < GROUP)
        row = tl.load(members + first_member + member, mask=live, other=0).to(tl.int64)
        query = tl.load(q + (row * KV_HEADS * GROUP + head)[:, None] * DIM + d[None, :],
                        mask=live[:, None] & (d < DIM)[None, :], other=0.0).to(k.dtype.element_ty)  # fmt: skip
        top = tl.full((MEMBERS * BLOCK_G,), float("-inf"), tl.float32)
        total = tl.zeros((MEMBERS * BLOCK_G,), tl.float32)
        acc = tl.zeros((MEMBERS * BLOCK_G, BLOCK_V), tl.float32)
        for start in tl.range(first, last, BLOCK_N, num_stages=STAGES):
            slot, present = block_slots(pages, start, last, BLOCK_N, PAGE)
            key = tl.load(k + (slot * KV_HEADS + kv_head)[None, :] * DIM + d[:, None],
                          mask=present[None, :] & (d < DIM)[:, None], other=0.0)  # fmt: skip
            value = tl.load(v + (slot * KV_HEADS + kv_head)[:, None] * V_DIM + e[None, :],
                            mask=present[:, None] & (e < V_DIM)[None, :], other=0.0)  # fmt: skip
            s = tl.where(present[None, :], scores(query, key, scale, cap, CAPPED), float("-inf"))
            top, total, acc = softmax_step(s, value, top, total, acc)
        part = (base + item * MEMBERS + member).to(tl.int64) * KV_HEADS * GROUP + head
        tl.store(part_top + part, top, mask=live)
        tl.store(part_sum + part, total, mask=live)
        tl.store(part_out + part[:, None] * V_DIM + e[None, :], acc, mask=live[:, None] & (e < V_DIM)[None, :])
