"""How kernels are run here: compiled for a GPU, or by Triton's interpreter on any machine."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import Any, TypedDict

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def interpreted() -> bool:
    """Whether kernels of this process run in Triton's interpreter. It is decided before the first is imported."""
    return bool(triton.knobs.runtime.interpret)


rehearsing: ContextVar[bool] = ContextVar("rehearsing", default=False)
"""Whether launches only tell Triton's hooks what they would compile, see `compiling.rehearse`."""


class Launched:
    """A kernel that the host launches: `kernel[grid](...)`."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return partial(self.kernel.warmup, grid=grid) if rehearsing.get() else self.kernel[grid]


def runs_kernels(device: torch.device) -> bool:
    """Whether a kernel can be launched on tensors of `device`."""
    return device.type == "cuda" or (device.type == "cpu" and interpreted())


def power(n: int) -> int:
    """The least power of two that is not below `n`."""
    return int(triton.next_power_of_2(n))


def tile(n: int) -> int:
    """The edge of a tile of the matrix units that holds `n`: a power of two, at least 16."""
    return max(16, power(n))


class Overlap(TypedDict):
    """Keywords of a launch."""

    PDL: bool
    launch_pdl: bool


def overlap(device: torch.device) -> Overlap:
    """Whether a kernel may be set up while the one before it still runs (from Hopper on). Each kernel then waits before
    it touches what another wrote, so that the end of one implies the end of all before it."""
    # A rehearsal's tensors, on "meta", stand for those of the current device.
    asked = None if device.type == "meta" else device
    able = device.type in ("cuda", "meta") and torch.cuda.get_device_capability(asked) >= (9, 0)
    return {"PDL": able, "launch_pdl": able}


@triton.jit
def begin(PDL: tl.constexpr):
    """The first thing a kernel does: lets the next one come, and waits for the one before."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
