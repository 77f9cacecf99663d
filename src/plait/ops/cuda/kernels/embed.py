"""Rows of the embedding table. A token that the host does not know yet is read where the last step drew it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from plait.ops.cuda.kernels.runtime import Launched, begin, overlap, power


@Launched
@triton.jit
def _embed(tokens, drawn, table, out, width, BLOCK: tl.constexpr, PDL: tl.constexpr):
    begin(PDL)
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(tokens + row)
    if token < 0:
        # A row whose draw failed has no token; what follows from it is dropped, so any will do.
        token = tl.maximum(tl.load(drawn - 1 - token), 0)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(table + token.to(tl.int64) * width + column, mask=inside)
    tl.store(out + row * width + column, value, mask=inside)


def embed(tokens: torch.Tensor, drawn: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """out[r] = table[token[r]]; a negative token -1 - i stands for drawn[i]. tokens and drawn int32."""
    out = torch.empty((len(tokens), table.shape[1]), dtype=table.dtype, device=table.device)
    block = power(table.shape[1])
    if len(tokens):
        _embed[(len(tokens),)](
            tokens,
            drawn,
            table,
            out,
            table.shape[1],
            BLOCK=block,
            num_warps=min(8, max(1, block // 512)),
            **overlap(tokens.device),
        )
    return out
