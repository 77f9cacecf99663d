"""RMS norm with the residual added before it: one pass over a row, in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from plait.ops.cuda.kernels.runtime import Launched, begin, overlap, power


@Launched
@triton.jit
def _rms_norm(
    x, x_stride, residual, weight, out, out_stride, total, eps, offset, width,
    ADD: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    begin(PDL)
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < width
    here = part * width + column
    value = tl.load(x + row * x_stride + here, mask=inside, other=0.0)
    if ADD:
        kept = row * out_stride + here
        value = (value + tl.load(residual + kept, mask=inside, other=0.0)).to(out.dtype.element_ty)
        tl.store(total + kept, value, mask=inside)
    exact = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(exact * exact, 0) / width + eps)
    factor = tl.load(weight + column, mask=inside, other=0.0) + offset
    tl.store(out + row * out_stride + here, (exact * scale * factor).to(out.dtype.element_ty), mask=inside)


def rms_norm(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float, offset: float, groups: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(out, total) of `api.RmsNorm`. x (rows, width), its rows at any distance; weight float32, width / groups."""
    rows, width = x.shape
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    total = torch.empty_like(out) if residual is not None else None
    part = width // groups
    block = power(part)
    if rows:
        _rms_norm[(rows, groups)](
            x, x.stride(0), residual, weight, out, out.stride(0), total, eps, offset, part,
            ADD=residual is not None, BLOCK=block, num_warps=min(8, max(1, block // 512)), **overlap(x.device),
        )  # fmt: skip
    return out, total
