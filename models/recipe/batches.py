"""Draws batches from token pools that lie on the GPU; knows pools and mixing weights, not models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Target value that the loss passes over (torch's own default).
IGNORE = -100


class Pools:
    """Pools of tokens, laid end to end on one device, each read in shuffled windows, epoch after epoch."""

    def __init__(self, folder: Path, part: str, device: torch.device, seed: int = 0) -> None:
        names = [name for name in json.loads((folder / "meta.json").read_text()) if name.startswith(f"{part}.")]
        arrays = [np.fromfile(folder / f"{name}.u16", dtype=np.int16) for name in names]
        self.names = [name.removeprefix(f"{part}.") for name in names]
        self.sizes = [array.size for array in arrays]
        self.bases = np.cumsum([0, *self.sizes])[:-1]
        #: Where documents begin: id 0, with or without the top bit.
        self.openings = [np.flatnonzero(array & 0x7FFF == 0) for array in arrays]
        self.tokens = torch.from_numpy(np.concatenate(arrays)).to(device)
        self.random = np.random.default_rng(seed)
        self.waiting: list[list[int]] = [[] for _ in names]
        self.credit = np.zeros(len(names))
        self.device = device

    def _start(self, pool: int, length: int) -> int:
        """Next window of this pool, moved to the next document's opening where one is near."""
        if not self.waiting[pool]:
            shift = int(self.random.integers(length))
            starts = np.arange(shift, self.sizes[pool] - length - 1, length)
            if starts.size == 0:
                starts = np.zeros(1, dtype=np.int64)
            self.waiting[pool] = [int(start) for start in self.random.permutation(starts)]
        start = self.waiting[pool].pop()
        openings = self.openings[pool]
        after = int(np.searchsorted(openings, start))
        near = openings[after] if after < openings.size else self.sizes[pool]
        if near - start < length // 2 and near + length + 1 <= self.sizes[pool]:
            start = int(near)
        return start

    def _slice(self, starts: NDArray[np.int64], length: int) -> tuple[Tensor, Tensor]:
        base = torch.from_numpy(starts).to(self.device, non_blocking=True)
        window = self.tokens[base[:, None] + torch.arange(length + 1, device=self.device)]
        ids = (window & 0x7FFF).long()
        targets = ids[:, 1:].masked_fill(window[:, 1:] < 0, IGNORE)
        return ids[:, :-1].contiguous(), targets.contiguous()

    def draw(self, mix: dict[str, float], rows: int, length: int) -> tuple[Tensor, Tensor]:
        """(ids, targets), each [rows, length]; pools share the rows by their weights in `mix`."""
        weights = np.array([mix.get(name, 0.0) for name in self.names])
        self.credit += rows * weights / weights.sum()
        starts: list[int] = []
        while len(starts) < rows:
            pool = int(np.argmax(self.credit))
            self.credit[pool] -= 1
            starts.append(int(self.bases[pool]) + self._start(pool, length))
        return self._slice(np.array(starts, dtype=np.int64), length)

    def in_order(self, name: str, length: int, limit: int) -> tuple[Tensor, Tensor]:
        """The first `limit` consecutive windows of a pool, without overlap: for held-out loss."""
        pool = self.names.index(name)
        count = max(1, min(limit, (self.sizes[pool] - 1) // length))
        starts = int(self.bases[pool]) + np.arange(count, dtype=np.int64) * length
        return self._slice(starts, length)

    def set_length(self) -> None:
        """Forgets the windows waiting: a phase of another length cuts its own."""
        self.waiting = [[] for _ in self.names]
