"""Products of few rows with a matrix: bound by reading the weights, which go through memory once, in order.

A program owns a tile of rows and columns and one share of K. The shares' sums are added in the order of K by whichever
program of a tile ends last, so the result does not depend on which that is. With `gated` the matrix holds gate and up,
and the product ends with act(gate) * up.

Such a product is not set up while the kernel before it runs (see `runtime.overlap`): programs that wait take room that
those at work need, and a step becomes slower by a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from plait.ops.api import Activation
from plait.ops.cuda.kernels.gate import CODES, activate
from plait.ops.cuda.kernels.runtime import Launched, tile

MOST_ROWS = 512
TILE_ROWS = 128
"""Rows of a tile, at most: beyond, the weights are read once more for each tile, out of the L2 cache."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """Columns and K of a tile, shares of K, warps, stages of the pipeline."""

    columns: int
    depth: int
    split: int
    warps: int
    stages: int


@triton.jit
def _end(acc, up, bias, n, n_inside, width, GATED: tl.constexpr, BIAS: tl.constexpr, ACT: tl.constexpr):
    if BIAS:
        acc += tl.load(bias + n, mask=n_inside, other=0.0).to(tl.float32)[None, :]
    if GATED:
        if BIAS:
            up += tl.load(bias + width + n, mask=n_inside, other=0.0).to(tl.float32)[None, :]
        acc = activate(acc, ACT) * up
    return acc


@Launched
@triton.jit(do_not_specialize=["rows"])
def _rows(
    x, x_stride, w, bias, out, partial, tickets, rows, width, depth,
    GATED: tl.constexpr, BIAS: tl.constexpr, ACT: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr, EVICT: tl.constexpr,
):  # fmt: skip
    # Tiles of the same columns are neighbours in time.
    tile, share = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), tl.program_id(2)
    m, k = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_inside = n < width
    steps = tl.cdiv(tl.cdiv(depth, BLOCK_K), SPLIT)
    begin = share * steps * BLOCK_K
    end = tl.minimum(depth, begin + steps * BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    line = n.to(tl.int64)[None, :] * depth
    for start in tl.range(begin, end, BLOCK_K, num_stages=STAGES):
        at = start + k
        inside = at < end
        a = tl.load(x + m[:, None] * x_stride + at[None, :], mask=(m < rows)[:, None] & inside[None, :], other=0.0)
        seen = inside[:, None] & n_inside[None, :]
        b = tl.load(w + line + at[:, None], mask=seen, other=0.0, eviction_policy=EVICT)
        acc = tl.dot(a, b, acc, input_precision="ieee")
        if GATED:
            c = tl.load(w + line + width.to(tl.int64) * depth + at[:, None], mask=seen, other=0.0,
                        eviction_policy=EVICT)  # fmt: skip
            up = tl.dot(a, c, up, input_precision="ieee")
    here = m[:, None].to(tl.int64) * width + n[None, :]
    kept = (m < rows)[:, None] & n_inside[None, :]
    if SPLIT == 1:
        acc = _end(acc, up, bias, n, n_inside, width, GATED, BIAS, ACT)
        tl.store(out + here, acc.to(out.dtype.element_ty), mask=kept)
    else:
        size = rows.to(tl.int64) * width
        each = 2 * size if GATED else size
        tl.store(partial + share * each + here, acc, mask=kept)
        if GATED:
            tl.store(partial + share * each + size + here, up, mask=kept)
        tl.debug_barrier()
        if tl.atomic_add(tickets + tile, 1, sem="acq_rel") == SPLIT - 1:
            acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for s in tl.static_range(SPLIT):
                acc += tl.load(partial + s * each + here, mask=kept, other=0.0, cache_modifier=".cg")
                if GATED:
                    up += tl.load(partial + s * each + size + here, mask=kept, other=0.0, cache_modifier=".cg")
            acc = _end(acc, up, bias, n, n_inside, width, GATED, BIAS, ACT)
            tl.store(out + here, acc.to(out.dtype.element_ty), mask=kept)
            tl.store(tickets + tile, 0)


class Tickets:
    """Zeros that the programs of a column tile count themselves with; each launch leaves them zero."""

    def __init__(self, device: torch.device, tiles: int = 1 << 16) -> None:
        self.zeros = torch.zeros(tiles, dtype=torch.int32, device=device)


def rows_matmul(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, tiling: Tiling, tickets: Tickets,
    gated: Activation | None = None, out_dtype: torch.dtype | None = None,
) -> torch.Tensor:  # fmt: skip
    """x (rows, K) @ w (N, K).T + bias, or with `gated` act(gate) * up for w (2 * N, K); returns (rows, N)."""
    rows, depth = x.shape
    width = len(w) // 2 if gated else len(w)
    out = torch.empty((rows, width), dtype=out_dtype or x.dtype, device=x.device)
    shares = tiling.split * (2 if gated else 1) if tiling.split > 1 else 0
    partial = torch.empty(shares * rows * width, dtype=torch.float32, device=x.device) if shares else out
    block = min(TILE_ROWS, tile(rows))
    tiles = triton.cdiv(rows, block)
    _rows[(tiles, triton.cdiv(width, tiling.columns), tiling.split)](
        x, x.stride(0), w, bias, out, partial, tickets.zeros, rows, width, depth, GATED=gated is not None,
        BIAS=bias is not None, ACT=CODES[gated] if gated else 0, SPLIT=tiling.split, BLOCK_M=block,
        BLOCK_N=tiling.columns, BLOCK_K=tiling.depth, STAGES=tiling.stages,
        EVICT="evict_first" if tiles == 1 else "", num_warps=tiling.warps,
    )  # fmt: skip
    return out
