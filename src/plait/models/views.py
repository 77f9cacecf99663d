"""Tensors made of a file's tensors without a change of their numbers: some rows, several side by side, transposed.

Files fuse what Plait keeps apart (q, k and v in one matrix), in orders of their own. Knows bytes of rows, which every
block format keeps whole; knows no architecture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from plait.formats.integer_tensor import IntegerTensor
from plait.formats.quant import BLOCK_FORMATS, dequantize
from plait.formats.stored import StoredTensor
from plait.formats.tensor import F32Array, LazyTensor, U8Array

RowIndex: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RowsOf:
    """Rows of a matrix, or elements of a vector, in the order of `rows`. A range of them (`rows` a slice) is not
    copied. `label` tells views of one tensor apart."""

    tensor: LazyTensor
    rows: slice | RowIndex
    label: str

    @property
    def name(self) -> str:
        return f"{self.tensor.name}[{self.label}]"

    @property
    def shape(self) -> tuple[int, ...]:
        count = len(range(self.tensor.shape[0])[self.rows]) if isinstance(self.rows, slice) else len(self.rows)
        return (count, *self.tensor.shape[1:])

    @property
    def format(self) -> str:
        return self.tensor.format

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes // self.tensor.shape[0] * self.shape[0]

    def raw_rows(self, rows: slice) -> U8Array:
        if len(self.shape) == 1:
            return self.raw()[rows]
        index = np.arange(self.tensor.shape[0])[self.rows][rows]
        return RowsOf(self.tensor, index, self.label).raw()

    def raw(self) -> U8Array:
        picked = self.tensor.raw().reshape(self.tensor.shape[0], -1)[self.rows]
        return picked if len(self.shape) > 1 else picked.reshape(1, -1)

    def numpy(self) -> F32Array:
        return dequantize(np.ascontiguousarray(self.raw()), self.format).reshape(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class TransposeOf:
    """A matrix stored as (in, out), in a format of single numbers (GPT-2's Conv1D)."""

    tensor: LazyTensor

    @property
    def name(self) -> str:
        return f"{self.tensor.name}[transposed]"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape[::-1]

    @property
    def format(self) -> str:
        return self.tensor.format

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def raw(self) -> U8Array:
        rows, columns = self.tensor.shape
        numbers = self.tensor.raw().reshape(rows, columns, -1)
        return np.ascontiguousarray(numbers.transpose(1, 0, 2)).reshape(columns, -1)

    def numpy(self) -> F32Array:
        return np.ascontiguousarray(self.tensor.numpy().T)


@dataclass(frozen=True, slots=True, eq=False)
class StackOf:
    """Vectors of one length and format as the rows of a matrix."""

    name: str
    tensors: tuple[LazyTensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.tensors), *self.tensors[0].shape)

    @property
    def format(self) -> str:
        return self.tensors[0].format

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def raw(self) -> U8Array:
        return np.concatenate([tensor.raw() for tensor in self.tensors])

    def numpy(self) -> F32Array:
        return np.stack([tensor.numpy() for tensor in self.tensors])


@dataclass(frozen=True, slots=True, eq=False)
class Ones:
    """A vector of ones, for norms that have no weight."""

    name: str
    shape: tuple[int, ...]
    format: str = "F32"

    @property
    def nbytes(self) -> int:
        return 4 * math.prod(self.shape)

    def raw(self) -> U8Array:
        return self.numpy().view(np.uint8).reshape(1, -1)

    def numpy(self) -> F32Array:
        return np.ones(self.shape, np.float32)


def rows_of(tensor: LazyTensor, rows: slice | RowIndex, label: str) -> LazyTensor:
    """A view; a range of rows of a stored tensor is itself a stored tensor, and can do all that one can."""
    view = RowsOf(tensor, rows, label)
    if isinstance(tensor, IntegerTensor) and isinstance(rows, slice):
        return tensor.rows(rows, view.name)
    if not isinstance(tensor, StoredTensor) or not isinstance(rows, slice):
        return view
    row_bytes = tensor.nbytes // tensor.shape[0]
    first = range(tensor.shape[0])[rows].start
    data = tensor.data[first * row_bytes : first * row_bytes + view.nbytes]
    return StoredTensor(view.name, view.shape, tensor.format, data, tensor.file)


def is_plain(tensor: LazyTensor) -> bool:
    """Whether its numbers stand one by one, not in blocks."""
    fmt = BLOCK_FORMATS.get(tensor.format)
    return fmt is not None and fmt.block_values == 1
