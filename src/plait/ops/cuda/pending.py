"""Tokens on their way to the host: copied behind the step that draws them, and waited for only when asked for."""

from __future__ import annotations

import time
from typing import TypeAlias

import torch

from plait.ops.cuda.draws import outcomes
from plait.ops.sampling import Sampled

Tensor: TypeAlias = torch.Tensor


class Pending:
    """One launched step."""

    def __init__(self, device: torch.device, count: int, vocabulary: int, host: Tensor) -> None:
        self._count, self._vocabulary, self._host = count, vocabulary, host
        self._cuda = device.type == "cuda"
        self._start_s = time.perf_counter()
        self._seconds = 0.0
        self._results: list[Sampled] | None = None
        if self._cuda:
            self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._begin.record()

    def end(self, drawn: Tensor, status: Tensor) -> None:
        """All of the step has been launched."""
        if self._count:
            self._host[0, : self._count].copy_(drawn[: self._count], non_blocking=True)
            self._host[1, : self._count].copy_(status[: self._count], non_blocking=True)
        if self._cuda:
            self._end.record()

    def result(self) -> list[Sampled]:
        """Waits for the step. Raises what the device reports."""
        if self._results is None:
            if self._cuda:
                self._end.synchronize()
                self._seconds = self._begin.elapsed_time(self._end) / 1e3
            else:
                self._seconds = time.perf_counter() - self._start_s
            tokens, status = self._host[:, : self._count].tolist()
            self._results = outcomes(tokens, status, self._vocabulary)
        return self._results

    @property
    def seconds(self) -> float:
        """How long the device took, once the result is there."""
        return self._seconds


class ReadBack:
    """Makes pending steps, each with host memory of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def begin(self, count: int, vocabulary: int) -> Pending:
        host = torch.empty((2, max(count, 1)), dtype=torch.int32, pin_memory=self._device.type == "cuda")
        return Pending(self._device, count, vocabulary, host)
