"""Rotary embedding and the store of K and V to their pages, in one pass; and the angles, once a step."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from plait.ops.api import RopeLayout
from plait.ops.cuda.kernels.runtime import Launched, begin, overlap, power

Table = tuple[torch.Tensor, torch.Tensor]
HEADS_AT_ONCE = 8


@Launched
@triton.jit
def _angles(positions, inv_freq, cos, sin, scale, PAIRS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    begin(PDL)
    row, pair = tl.program_id(0), tl.arange(0, BLOCK)
    inside = pair < PAIRS
    angle = tl.load(positions + row).to(tl.float64) * tl.load(inv_freq + pair, mask=inside, other=0.0)
    tl.store(cos + row * PAIRS + pair, tl.cos(angle).to(tl.float32) * scale, mask=inside)
    tl.store(sin + row * PAIRS + pair, tl.sin(angle).to(tl.float32) * scale, mask=inside)


def angles(positions: torch.Tensor, inv_freq: torch.Tensor, scale: float) -> Table:
    """cos and sin, (rows, pairs), float32; positions int32, inv_freq and the angles float64."""
    rows, pairs = len(positions), len(inv_freq)
    cos, sin = (torch.empty((rows, pairs), dtype=torch.float32, device=positions.device) for _ in range(2))
    if rows:
        _angles[(rows,)](
            positions, inv_freq, cos, sin, scale, PAIRS=pairs, BLOCK=power(pairs), num_warps=2, **overlap(cos.device)
        )
    return cos, sin


@Launched
@triton.jit(do_not_specialize=["count"])
def _store_positions(positions, store_row, store_slot, memory, count, BLOCK: tl.constexpr, PDL: tl.constexpr):
    begin(PDL)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    row = tl.load(store_row + i, mask=inside, other=0)
    slot = tl.load(store_slot + i, mask=inside, other=0)
    tl.store(memory + slot, tl.load(positions + row, mask=inside, other=0), mask=inside)


def store_positions(
    positions: torch.Tensor, store_row: torch.Tensor, store_slot: torch.Tensor, memory: torch.Tensor
) -> None:
    """memory[store_slot[i]] = positions[store_row[i]]; all int32."""
    count = len(store_slot)
    if count:
        _store_positions[(triton.cdiv(count, 256),)](
            positions, store_row, store_slot, memory, count, BLOCK=256, **overlap(memory.device)
        )


@triton.jit
def _rotated(source, target, cos, sin, head, live, DIM: tl.constexpr, PAIRS: tl.constexpr, INTERLEAVED: tl.constexpr,
             BLOCK_PAIRS: tl.constexpr, BLOCK_REST: tl.constexpr):  # fmt: skip
    """Rotates heads from `source` to `target`: pointers to the first element of each head, (heads, 1)."""
    if PAIRS > 0:
        pair = tl.arange(0, BLOCK_PAIRS)[None, :]
        inside = live & (pair < PAIRS)
        first = 2 * pair if INTERLEAVED else pair
        second = first + 1 if INTERLEAVED else pair + PAIRS
        a = tl.load(source + first, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(source + second, mask=inside, other=0.0).to(tl.float32)
        c = tl.load(cos + pair, mask=pair < PAIRS, other=0.0)
        s = tl.load(sin + pair, mask=pair < PAIRS, other=0.0)
        tl.store(target + first, (a * c - b * s).to(target.dtype.element_ty), mask=inside)
        tl.store(target + second, (a * s + b * c).to(target.dtype.element_ty), mask=inside)
    if DIM > 2 * PAIRS:
        rest = 2 * PAIRS + tl.arange(0, BLOCK_REST)[None, :]
        inside = live & (rest < DIM)
        tl.store(target + rest, tl.load(source + rest, mask=inside, other=0.0).to(target.dtype.element_ty), mask=inside)


@Launched
@triton.jit(do_not_specialize=["rows", "stores"])
def _rope_and_store(
    q, q_stride, k, k_stride, v, v_stride, cos, sin, out, k_memory, v_memory, store_row, store_slot, rows, stores,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr, PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr, BLOCK_PAIRS: tl.constexpr, BLOCK_REST: tl.constexpr, BLOCK_V: tl.constexpr,
    AT_ONCE: tl.constexpr, Q_PARTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    begin(PDL)
    i, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if part < Q_PARTS:
        if i < rows:
            head = part * AT_ONCE + tl.arange(0, AT_ONCE)[:, None]
            _rotated(q + i * q_stride + head * DIM, out + i * HEADS * DIM + head * DIM, cos + i * PAIRS,
                     sin + i * PAIRS, head, head < HEADS, DIM, PAIRS, INTERLEAVED, BLOCK_PAIRS,
                 BLOCK_REST)  # fmt: skip
    elif i < stores:
        head = (part - Q_PARTS) * AT_ONCE + tl.arange(0, AT_ONCE)[:, None]
        row = tl.load(store_row + i).to(tl.int64)
        slot = tl.load(store_slot + i).to(tl.int64)
        _rotated(k + row * k_stride + head * DIM, k_memory + (slot * KV_HEADS + head) * DIM, cos + row * PAIRS,
               sin + row * PAIRS, head, head < KV_HEADS, DIM, PAIRS, INTERLEAVED, BLOCK_PAIRS, BLOCK_REST)  # fmt: skip
        column = tl.arange(0, BLOCK_V)[None, :]
        inside = (head < KV_HEADS) & (column < V_DIM)
        value = tl.load(v + row * v_stride + head * V_DIM + column, mask=inside, other=0.0)
        target = v_memory + (slot * KV_HEADS + head) * V_DIM + column
        tl.store(target, value.to(v_memory.dtype.element_ty), mask=inside)


def rope_and_store(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: Table | None, layout: RopeLayout,
    k_memory: torch.Tensor, v_memory: torch.Tensor, store_row: torch.Tensor, store_slot: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The rotated q, (rows, n_heads * head_dim); k (rotated) and v go to the memory's slots, (slots, kv_heads, dim).

    q, k and v are (rows, width), their rows at any distance; store_row and store_slot int32."""
    rows, stores = len(q), len(store_slot)
    kv_heads, dim = k_memory.shape[1:]
    v_dim, heads = v_memory.shape[2], q.shape[1] // dim
    out = torch.empty((rows, q.shape[1]), dtype=q.dtype, device=q.device)
    pairs = 0 if table is None else table[0].shape[1]
    cos, sin = (out, out) if table is None else table
    q_parts = triton.cdiv(heads, HEADS_AT_ONCE)
    if rows:
        _rope_and_store[(max(rows, stores), q_parts + triton.cdiv(kv_heads, HEADS_AT_ONCE))](
            q, q.stride(0), k, k.stride(0), v, v.stride(0), cos, sin, out, k_memory, v_memory, store_row, store_slot,
            rows, stores, HEADS=heads, KV_HEADS=kv_heads, DIM=dim, V_DIM=v_dim, PAIRS=pairs,
            INTERLEAVED=layout is RopeLayout.INTERLEAVED, BLOCK_PAIRS=power(max(1, pairs)),
            BLOCK_REST=power(max(1, dim - 2 * pairs)), BLOCK_V=power(v_dim), AT_ONCE=HEADS_AT_ONCE, Q_PARTS=q_parts,
            num_warps=4, **overlap(q.device),
        )  # fmt: skip
    return out
