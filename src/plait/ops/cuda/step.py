"""One step's inputs as tensors, and how its rows are grouped for attention. Knows numpy, torch and the step contract.

The numpy side may look at numbers and choose shapes; the tensors it makes are all that the device code sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from plait.ops.api import KVInputs, StepInputs

Tensor: TypeAlias = torch.Tensor
I64Array: TypeAlias = npt.NDArray[np.int64]

QUERY_ROWS = 128
"""Rows of one sequence that attend together: bounds the size of their scores."""


@dataclass(frozen=True, slots=True)
class QueryBlock:
    """T rows of each of B sequences, `rows` (B, T), and those sequences' keys: slots (B, N), padded with slot 0 of the
    reserved page, and which of them exist (B, N)."""

    rows: Tensor
    key_slots: Tensor
    present: Tensor


@dataclass(frozen=True, slots=True)
class GroupStep:
    """One KV group's part: what is stored where, (W,) each, and the blocks, which hold every row once."""

    store_row: Tensor
    store_slot: Tensor
    blocks: tuple[QueryBlock, ...]


@dataclass(frozen=True, slots=True)
class DeviceStep:
    """A step on the device. All int64 but `present`."""

    tokens: Tensor  # (R,)
    positions: Tensor  # (R,)
    out_rows: Tensor  # (L,)
    groups: tuple[GroupStep, ...]
    hidden_only: int = 0  # of the out_rows, the last so many want no logits


def upload(step: StepInputs, page_size: int, device: torch.device) -> DeviceStep:
    """Sequences with one row form one block; those with several are cut into blocks of their own."""
    groups = []
    for inputs in step.kv:
        keys = sequence_slots(inputs, page_size)
        blocks = tuple(
            QueryBlock(
                to_device(rows, device), *(to_device(array, device) for array in pad([keys[s] for s in sequences]))
            )
            for sequences, rows in _blocks(step)
        )
        groups.append(GroupStep(to_device(inputs.store_row, device), to_device(inputs.store_slot, device), blocks))
    tokens, positions, out_rows = (to_device(a, device) for a in (step.tokens, step.positions, step.out_rows))
    return DeviceStep(tokens, positions, out_rows, tuple(groups), step.hidden_only)


def to_device(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    wanted = array if array.dtype == np.bool_ else array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(wanted)).to(device)


def sequence_slots(inputs: KVInputs, page_size: int) -> list[I64Array]:
    """The slots of each sequence's keys, in order."""
    page, first, count = inputs.entries.astype(np.int64).T
    ends = np.cumsum(count)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - count, count)
    slots = np.repeat(page * page_size + first, count) + within
    bounds = np.concatenate(([0], ends))[inputs.entry_start]
    return np.split(slots, bounds[1:-1])


def pad(keys: list[I64Array], length: int | None = None) -> tuple[I64Array, npt.NDArray[np.bool_]]:
    """Slots (B, N) and which of them exist; N is `length`, or the longest of `keys`."""
    counts = np.array([len(k) for k in keys])
    present = np.arange(counts.max() if length is None else length) < counts[:, None]
    slots = np.zeros(present.shape, np.int64)
    slots[present] = np.concatenate(keys)
    return slots, present


def _blocks(step: StepInputs) -> Iterator[tuple[list[int], I64Array]]:
    """Sequences, and their rows (B, T)."""
    sequences, starts, counts = np.unique(step.row_seq, return_index=True, return_counts=True)
    single = counts == 1
    if single.any():
        yield sequences[single].tolist(), starts[single][:, None]
    for sequence, start, count in zip(sequences[~single], starts[~single], counts[~single], strict=True):
        for first in range(0, int(count), QUERY_ROWS):
            rows = np.arange(start + first, start + min(first + QUERY_ROWS, int(count)))
            yield [int(sequence)], rows[None]
