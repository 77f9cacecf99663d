"""Steps captured as CUDA graphs, by the number of their rows. Knows how a step is laid out; knows no program.

Every graph serves any lengths and page tables: the work lists are data. All share one memory pool, since one runs after
the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from plait.ops.cuda.capture import capture
from plait.ops.cuda.staging import Capacity, Layout, StepTensors

Tensor: TypeAlias = torch.Tensor
Body = Callable[[StepTensors, bool, bool], Tensor]
"""The program on a step's tensors, with single rows, with several rows of a sequence; returns logits."""

DECODE_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
MIXED_ROWS = (64, 128, 192, 256, 384, 512, 640, 768, 1024, 1280, 1536, 1792, 2048)
"""From some 200 rows on, a row that only fills up costs as much as any other."""
MIXED_OUTPUTS = (64, 256, 512)
"""Rows of logits, and sequences, of a mixed step. Work that is not there costs the start of a program that ends at
once: 22 us a layer where 2,048 rows were provided for, 5 where 64 were."""


@dataclass(slots=True)
class StepGraph:
    """A captured step: its layout, where its input lies on the device, and where its logits come to lie."""

    layout: Layout
    tensors: StepTensors
    input: Tensor
    graph: torch.cuda.CUDAGraph | None
    logits: Tensor | None
    body: Callable[[], Tensor]

    def replay(self) -> Tensor:
        """Runs the step with what lies in `input`; the logits are valid until the next graph runs."""
        if self.graph is None or self.logits is None:
            return self.body()
        self.graph.replay()
        return self.logits


class Graphs:
    """Captures on first use. On a device that is not CUDA there is nothing to capture: the body runs at once."""

    def __init__(self, body: Body, device: torch.device, page_size: int) -> None:
        self._body, self._device, self._page = body, device, page_size
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._graphs: dict[tuple[Capacity, bool, bool], StepGraph] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    def of(self, capacity: Capacity, single: bool, several: bool) -> StepGraph:
        key = (capacity, single, several)
        if key not in self._graphs:
            self._graphs[key] = self._make(capacity, single, several)
        return self._graphs[key]

    def drop(self) -> None:
        """Forgets every graph, and with them their memory: a pool without graphs is no pool any more."""
        self._graphs.clear()
        self._pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None

    def _make(self, capacity: Capacity, single: bool, several: bool) -> StepGraph:
        layout = Layout(capacity)
        data = torch.zeros(layout.size, dtype=torch.int32, device=self._device)
        tensors = layout.tensors(data, self._page)

        def body() -> Tensor:
            return self._body(tensors, single, several)

        made = StepGraph(layout, tensors, data.view(torch.uint8), None, None, body)
        if self._device.type == "cuda":
            # On zeros, which read no key and write to the reserved page.
            made.graph, made.logits = capture(self._device, body, self._pool)
        return made


def round_up(n: int, sizes: tuple[int, ...]) -> int | None:
    """The least of `sizes` that is not below `n`."""
    return next((size for size in sizes if size >= n), None)
