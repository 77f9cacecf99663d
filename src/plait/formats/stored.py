"""The one implementation of `LazyTensor`: a range of bytes of a mapped file. Knows the table of block formats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from plait.errors import UnsupportedModelError
from plait.formats.quant import BLOCK_FORMATS, dequantize
from plait.formats.tensor import F32Array, U8Array


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor in `file`; see `LazyTensor`. `data` are its bytes, one-dimensional, their number checked by the reader.

    A tensor of a type that Plait cannot read (an int64 buffer, an exotic quantisation) is listed like any other;
    `raw` and `numpy` raise `UnsupportedModelError` for it, so that one which the model does not use does no harm.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    data: U8Array
    file: Path

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def raw(self) -> U8Array:
        fmt = BLOCK_FORMATS.get(self.format)
        if fmt is None:
            nearest = ", ".join(_nearest(self.format))
            reason = f"is of type {self.format}, which Plait does not read; the nearest that it reads: {nearest}"
            raise UnsupportedModelError(self.file, reason, self.name)
        row_values = self.shape[-1] if self.shape else 1
        return self.data.reshape(math.prod(self.shape[:-1]), fmt.row_bytes(row_values))

    def raw_rows(self, rows: slice) -> U8Array:
        """The bytes of some rows, without a step; also of a type that Plait does not read, to copy them."""
        count = math.prod(self.shape[:-1])
        width, (start, stop, _) = self.nbytes // count, rows.indices(count)
        return self.data[start * width : stop * width].reshape(-1, width)

    def numpy(self) -> F32Array:
        rows = self.raw()
        if self.format == "F32":
            # A container may place numbers at odd addresses, which numpy allows and kernels do not.
            return np.require(self.data.view("<f4"), requirements="A").reshape(self.shape)
        return dequantize(rows, self.format).reshape(self.shape)


def _nearest(name: str) -> list[str]:
    """The formats whose names are most alike; of plain numbers the floats."""
    if name[1:].isdigit():
        return ["F32", "F16", "BF16"]
    return get_close_matches(name, BLOCK_FORMATS, n=3, cutoff=0)
