"""A decode step of fixed shapes, captured once as a CUDA graph and replayed. Knows how to fill its own inputs; knows
nothing of the program."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch

from plait.errors import BackendError
from plait.formats.tensor import F32Array
from plait.ops.api import KVConfig, StepInputs
from plait.ops.cuda.capture import capture
from plait.ops.cuda.step import DeviceStep, GroupStep, QueryBlock, pad, sequence_slots, to_device

Tensor: TypeAlias = torch.Tensor


class DecodeGraph:
    """One token of each of up to `batch_size` sequences of up to `max_pages` pages. Rows that are not used read no key
    and write to the reserved page.

    Capturing runs `body` on empty inputs, which changes nothing but the reserved page. On a device that is not CUDA
    there is nothing to capture, and a replay runs `body` on the same fixed inputs."""

    def __init__(
        self,
        body: Callable[[DeviceStep], Tensor],
        config: KVConfig,
        batch_size: int,
        max_pages: int,
        device: torch.device,
    ) -> None:
        if batch_size < 1 or max_pages < 1:
            raise BackendError(f"a decode graph of {batch_size} rows and {max_pages} pages holds nothing")
        self._body, self._page_size, self._device = body, config.page_size, device
        self.batch_size, self.max_keys = batch_size, max_pages * config.page_size
        self._step = self._empty(len(config.num_pages))
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None
        self.num_replays = 0
        if device.type == "cuda":
            self._graph, self._logits = capture(device, lambda: self._body(self._step))

    def accepts(self, step: StepInputs) -> bool:
        """Whether the step is one token of each sequence and fits."""
        rows = len(step.tokens)
        if step.hidden_only:  # the captured step makes logits of every row
            return False
        if not 0 < rows <= self.batch_size or not np.array_equal(step.row_seq, np.arange(rows)):
            return False
        return all(len(kv.store_row) <= self.batch_size and self._longest(step, g) <= self.max_keys
                   for g, kv in enumerate(step.kv))  # fmt: skip

    def run(self, step: StepInputs, *, replay: bool = True) -> F32Array:
        """Logits of a step that it accepts, (L, vocabulary). Edits of the KV memory are the caller's. Without `replay`
        the same inputs go through `body` as on the CPU."""
        self._fill(step)
        if self._graph is not None and replay:
            self._graph.replay()
            self.num_replays += 1
            logits = self._logits
        else:
            logits = self._body(self._step)
        assert logits is not None
        result: F32Array = logits[to_device(step.out_rows, self._device)].cpu().numpy()
        return result

    def _longest(self, step: StepInputs, group: int) -> int:
        kv = step.kv[group]
        ends = np.concatenate(([0], np.cumsum(kv.entries[:, 2])))[kv.entry_start]
        return int(np.diff(ends).max())

    def _empty(self, num_groups: int) -> DeviceStep:
        rows, keys = self.batch_size, self.max_keys

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=self._device)

        every = torch.arange(rows, device=self._device)
        groups = tuple(
            GroupStep(
                zeros(rows),
                zeros(rows),
                (QueryBlock(every[:, None], zeros(rows, keys), zeros(rows, keys, dtype=torch.bool)),),
            )
            for _ in range(num_groups)
        )
        return DeviceStep(zeros(rows), zeros(rows), every, groups)

    def _fill(self, step: StepInputs) -> None:
        rows = len(step.tokens)
        self._set(self._step.tokens, step.tokens)
        self._set(self._step.positions, step.positions)
        for group, inputs in zip(self._step.groups, step.kv, strict=True):
            self._set(group.store_row, inputs.store_row)
            self._set(group.store_slot, inputs.store_slot)
            slots, present = pad(sequence_slots(inputs, self._page_size)[:rows], self.max_keys)
            (block,) = group.blocks
            self._set(block.key_slots, slots)
            self._set(block.present, present)

    def _set(self, target: Tensor, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
        """The first rows of `target`; zeros after them."""
        target[: len(values)].copy_(to_device(values, self._device))
        target[len(values) :].zero_()
