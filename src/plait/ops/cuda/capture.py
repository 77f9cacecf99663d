"""Captures work as a CUDA graph. Knows torch alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from plait.garbage import uncollected

Tensor: TypeAlias = torch.Tensor
_WARM_UPS = 1


def capture(device: torch.device, body: Callable[[], Tensor], pool: Any = None) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """`body` as a graph, and where its result comes to lie; in the memory `pool`, if given."""
    # As torch asks for: a run on a stream of its own, then the capture.
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                body()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # An old graph or event that happens to be collected meanwhile would invalidate the capture.
        with uncollected(), torch.cuda.graph(graph, pool=pool):
            result = body()
    return graph, result
