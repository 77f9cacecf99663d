"""A matrix of integers from a PyTorch checkpoint as a `LazyTensor`: in one of the block formats where that loses
nothing, else in half precision. Knows packings and block formats; knows no checkpoint's names.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from plait.formats.integer_packings import Packing
from plait.formats.quant.integers import (
    BLOCK,
    I16Array,
    I32Array,
    dequantize_levels,
    fits_half,
    narrowest_format,
    pack_levels,
)
from plait.formats.quant.table import block_format
from plait.formats.tensor import F32Array, U8Array

Number = TypeVar("Number", bound=np.generic)
_log = logging.getLogger("plait")
_PIECE_VALUES = 1 << 20  # made at a time by a thread


@dataclass(slots=True)
class Notes:
    """What the user is told about a model, each thing once."""

    path: Path
    told: set[str] = field(default_factory=set)

    def tell(self, name: str, reason: str) -> None:
        if reason not in self.told:
            self.told.add(reason)
            _log.warning(
                "%s: '%s' and others like it take 2 bytes a weight, since %s; their integers cannot be kept",
                self.path,
                name,
                reason,
            )


@dataclass(frozen=True, eq=False)
class IntegerTensor:
    """Rows `first` to before `last` of a packed matrix; `groups` is each input's group.

    `numpy` gives scale * (level - zero) in float32. `raw` gives the same in blocks: levels less zeros exactly, and the
    scale in half precision, exactly where the file holds halves, or bfloat16 of a usual size."""

    name: str
    packing: Packing
    groups: I32Array
    notes: Notes
    first: int
    last: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.last - self.first, self.packing.inputs

    @property
    def nbytes(self) -> int:
        """In the file."""
        return sum(part.nbytes for part in self.packing.parts) * self.shape[0] // self.packing.outputs

    @cached_property
    def format(self) -> str:
        """Q4_0, Q5_0 or Q8_0, or F16 with a warning."""
        if self.shape[1] % BLOCK:
            return self._floats(f"rows of {self.shape[1]} weights are no multiple of {BLOCK}")
        if np.any(self.groups.reshape(-1, BLOCK) != self.groups[::BLOCK, None]):
            in_order = bool(np.all(np.diff(self.groups) >= 0))
            odd = f"a group ends within {BLOCK} inputs" if in_order else "groups of inputs are out of order (desc_act)"
            return self._floats(odd)
        zeros = _take(self.packing.zeros, self.first, self.last)
        scales = _take(self.packing.scales, self.first, self.last)
        if not fits_half(scales):
            return self._floats("scales are outside the range of half precision")
        found = narrowest_format(-int(zeros.max()), (1 << self.packing.bits) - 1 - int(zeros.min()))
        return found or self._floats("levels less their zeros need more than 8 bits")

    def _floats(self, reason: str) -> str:
        self.notes.tell(self.name, reason)
        return "F16"

    def rows(self, rows: slice, name: str) -> IntegerTensor:
        """Some of the rows, without a step."""
        start, stop, _ = rows.indices(self.shape[0])
        return IntegerTensor(name, self.packing, self.groups, self.notes, self.first + start, self.first + stop)

    def raw(self) -> U8Array:
        """Made anew by each call, over threads."""
        return self._blocks(self.first, self.last)

    def raw_rows(self, rows: slice) -> U8Array:
        start, stop, _ = rows.indices(self.shape[0])
        return self._blocks(self.first + start, self.first + stop)

    def _blocks(self, start: int, stop: int) -> U8Array:
        """Rows of the whole matrix, in the format of these ones."""
        name, of_blocks = self.format, self.groups[::BLOCK]
        out = np.empty((stop - start, block_format(name).row_bytes(self.shape[1])), np.uint8)

        def make(first: int, last: int) -> None:
            place = out[first - start : last - start]
            if name == "F16":
                with np.errstate(over="ignore"):
                    place[...] = self._values(first, last).astype("<f2").view(np.uint8)
            else:
                levels, zeros, scales = self._parts(first, last)
                place[...] = pack_levels(levels, zeros[:, of_blocks], scales[:, of_blocks], name)

        _each_piece(make, self._pieces(start, stop))
        return out

    def numpy(self) -> F32Array:
        out = np.empty(self.shape, np.float32)

        def make(first: int, last: int) -> None:
            out[first - self.first : last - self.first] = self._values(first, last)

        _each_piece(make, self._pieces(self.first, self.last))
        return out

    def _values(self, first: int, last: int) -> F32Array:
        levels, zeros, scales = self._parts(first, last)
        run, rest = divmod(self.shape[1], self.packing.n_groups)
        if rest or np.any(self.groups != np.arange(self.shape[1], dtype=np.int32) // run):
            return dequantize_levels(levels, zeros[:, self.groups], scales[:, self.groups])
        of_runs = dequantize_levels(levels.reshape(*zeros.shape, run), zeros[:, :, None], scales[:, :, None])
        return of_runs.reshape(levels.shape)

    def _parts(self, first: int, last: int) -> tuple[U8Array, I16Array, F32Array]:
        """Levels, zeros and scales of rows of the whole matrix."""
        packing = self.packing
        return _take(packing.levels, first, last), _take(packing.zeros, first, last), _take(packing.scales, first, last)

    def _pieces(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        step = max(8, _PIECE_VALUES // self.packing.inputs // 8 * 8)
        for start in range(first, last, step):
            yield start, min(start + step, last)


def _take(read: Callable[[int, int], npt.NDArray[Number]], first: int, last: int) -> npt.NDArray[Number]:
    """Rows of a packing, which hands them out in whole eights, the last ones apart."""
    start = first // 8 * 8
    return read(start, -(-last // 8) * 8)[first - start : last - start]


def _each_piece(make: Callable[[int, int], None], pieces: Iterator[tuple[int, int]]) -> None:
    listed = list(pieces)
    if len(listed) == 1:
        make(*listed[0])
        return
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "plait-integers") as pool:
        for done in [pool.submit(make, *piece) for piece in listed]:
            done.result()
