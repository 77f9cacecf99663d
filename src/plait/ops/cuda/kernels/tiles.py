"""What the attention kernels share: one block of keys of a paged sequence, and the running softmax over blocks.

Scores are in units of log2, so that exp2 serves. A masked key leaves no trace, not even NaN.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def block_slots(table, start, last, BLOCK_N: tl.constexpr, PAGE: tl.constexpr):
    """Slots (int64) of keys start.. of a sequence whose page table is `table`, and which of them are before `last`."""
    index = start + tl.arange(0, BLOCK_N)
    present = index < last
    page = tl.load(table + index // PAGE, mask=present, other=0)
    return (page * PAGE + index % PAGE).to(tl.int64), present


@triton.jit
def scores(q, k, scale, cap, CAPPED: tl.constexpr):
    """(rows, keys) of q (rows, dim) and k (dim, keys)."""
    s = tl.dot(q, k, input_precision="ieee") * scale
    if CAPPED:
        # tanh by sigmoid; `cap` is in units of log2 like the scores.
        s = cap * (2.0 * tl.sigmoid(2.0 * s / cap) - 1.0)
    return s


@triton.jit
def softmax_step(s, v, top, total, acc):
    """One more block: scores s (-inf where masked) and values v (keys, v_dim)."""
    new_top = tl.maximum(top, tl.max(s, 1))
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    p = tl.exp2(s - base[:, None])
    shrink = tl.exp2(top - base)
    total = total * shrink + tl.sum(p, 1)
    acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
    return new_top, total, acc
