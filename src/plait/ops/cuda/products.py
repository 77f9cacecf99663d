"""Products with a weight: cuBLAS through torch or by an algorithm of ours, or our kernel for few rows, as tables of
measured choices say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from torch.nn import functional

from plait.ops.api import Activation
from plait.ops.cuda.kernels.gate import gate
from plait.ops.cuda.kernels.rows import MOST_ROWS, Tickets, Tiling, rows_matmul
from plait.ops.cuda.lt_products import LtProducts

Tensor: TypeAlias = torch.Tensor
Key = tuple[int, int, int, bool]
"""Rows (rounded up to a power of two), columns, depth, gated."""
FEW_ROWS = 16
"""Where nothing was measured, more rows than these are left to cuBLAS."""
MEASURED = Path(__file__).parent / "measured"


@dataclass(frozen=True, slots=True)
class Choices:
    """Which tiling a product takes, None for cuBLAS; what is not in `measured` follows `default_tiling`."""

    measured: Mapping[Key, Tiling | None] = field(default_factory=dict)

    @staticmethod
    def of_device(name: str, folder: Path = MEASURED) -> Choices:
        """What was measured on a GPU of this name: lists of the key and the tiling, as `benchmarks/gpu_tune.py` wrote
        them. Nothing for a GPU that nobody measured."""
        file = folder / f"{file_name(name)}.json"
        rows = json.loads(file.read_text()) if file.exists() else []
        return Choices({_key(key): None if tiling is None else Tiling(*tiling) for key, tiling in rows})

    def of(self, rows: int, columns: int, depth: int, gated: bool) -> Tiling | None:
        if rows > MOST_ROWS:
            return None
        key = (1 << max(0, rows - 1).bit_length(), columns, depth, gated)
        return self.measured[key] if key in self.measured else default_tiling(*key)


def file_name(device: str) -> str:
    """Of a GPU, for files."""
    return "-".join(device.lower().split())


def _key(values: Sequence[int]) -> Key:
    rows, columns, depth, gated = values
    return rows, columns, depth, bool(gated)


def default_tiling(rows: int, columns: int, depth: int, gated: bool) -> Tiling | None:
    """Enough programs for every multiprocessor, each with enough bytes on their way."""
    return Tiling(32, 128, 2 if columns < 8192 else 1, 4, 5) if rows <= FEW_ROWS else None


class Products:
    """Computes products; holds what the kernels need between launches. What `lt` computes goes before `choices`: it was
    measured against them."""

    def __init__(self, device: torch.device, choices: Choices, lt: LtProducts | None = None) -> None:
        self.choices, self.lt, self._tickets = choices, lt, Tickets(device)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x (rows, K) @ weight (N, K).T + bias."""
        chosen = self._by_lt(x, weight, bias, x.dtype)
        if chosen is not None:
            return chosen
        tiling = self.choices.of(len(x), len(weight), weight.shape[1], False)
        if tiling is None:
            return functional.linear(x, weight, bias)
        return rows_matmul(x, weight, bias, tiling, self._tickets)

    def gated(self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
        """act(gate) * up; weight (2 * N, K) holds gate, then up."""
        chosen = self._by_lt(x, weight, bias, x.dtype)
        if chosen is not None:
            return gate(chosen, activation)
        tiling = self.choices.of(len(x), len(weight) // 2, weight.shape[1], True)
        if tiling is None:
            return gate(functional.linear(x, weight, bias), activation)
        return rows_matmul(x, weight, bias, tiling, self._tickets, activation)

    def logits(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same as `linear`, but rounded to float32: among the largest logits, ties of a half type are common."""
        chosen = self._by_lt(x, weight, bias, torch.float32)
        if chosen is not None:
            return chosen
        tiling = self.choices.of(len(x), len(weight), weight.shape[1], False)
        if tiling is not None:
            return rows_matmul(x, weight, bias, tiling, self._tickets, out_dtype=torch.float32)
        if x.device.type != "cuda" or x.dtype == torch.float32 or bias is not None:
            return functional.linear(x, weight, bias).float()
        return torch.mm(x, weight.t(), out_dtype=torch.float32)

    def _by_lt(self, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Products with a bias were not measured."""
        return None if self.lt is None or bias is not None else self.lt(x, weight, dtype)


def measured_products(device: torch.device) -> Products:
    """By what was measured for half types on this card."""
    name = torch.cuda.get_device_name(device)
    lt = LtProducts.of_device(device, MEASURED / "cublaslt" / f"{file_name(name)}.json")
    return Products(device, Choices.of_device(name), lt)
