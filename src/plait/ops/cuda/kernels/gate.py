"""The gated activation over a fused gate and up: act(gate) * up, in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from plait.ops.api import Activation
from plait.ops.cuda.kernels.runtime import Launched, begin, overlap

BLOCK = 1024
CODES = {Activation.SILU: 0, Activation.GELU: 1, Activation.GELU_TANH: 2}


@triton.jit
def activate(x, ACT: tl.constexpr):
    if ACT == 0:
        y = x * tl.sigmoid(x)
    elif ACT == 1:
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:
        y = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return y


@Launched
@triton.jit
def _gate(x, x_stride, out, out_stride, width, ACT: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    begin(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    start = x + row * x_stride + column
    gate = tl.load(start, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(start + width, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + column, (activate(gate, ACT) * up).to(out.dtype.element_ty), mask=inside)


def gate(x: torch.Tensor, activation: Activation) -> torch.Tensor:
    """x (rows, 2 * width), gate then up; returns (rows, width)."""
    rows, width = x.shape[0], x.shape[1] // 2
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    if rows:
        grid = (rows, triton.cdiv(width, BLOCK))
        _gate[grid](
            x,
            x.stride(0),
            out,
            out.stride(0),
            width,
            ACT=CODES[activation],
            BLOCK=BLOCK,
            num_warps=4,
            **overlap(x.device),
        )
    return out
