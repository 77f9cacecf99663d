"""How kernels are run here: compiled for a GPU, or by Triton's interpreter on any machine."""

from __future__ import annotations

import torch
import triton


def interpreted() -> bool:
    """Whether kernels of this process run in Triton's interpreter. It is decided before the first is imported."""
    return bool(triton.knobs.runtime.interpret)


def runs_kernels(device: torch.device) -> bool:
    """Whether a kernel can be launched on tensors of `device`."""
    return device.type == "cuda" or (device.type == "cpu" and interpreted())


def power(n: int) -> int:
    """The least power of two that is not below `n`."""
    return int(triton.next_power_of_2(n))


def tile(n: int) -> int:
    """The edge of a tile of the matrix units that holds `n`: a power of two, at least 16."""
    return max(16, power(n))
