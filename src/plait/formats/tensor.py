"""Named lazy tensors: what every container (GGUF, safetensors) turns into.

Bytes stay in the mapped file until somebody asks. Knows numpy and the table of block formats; knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

F32Array: TypeAlias = npt.NDArray[np.float32]
U8Array: TypeAlias = npt.NDArray[np.uint8]


class LazyTensor(Protocol):
    """A tensor in a file. `shape` is in numpy's order, outermost first: a weight matrix is (out, in), and rows of
    `in` values are contiguous on disk, quantised in blocks along `in`. `format` is GGUF's name of the type: F32, F16,
    BF16, Q8_0, Q4_K ..."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def format(self) -> str: ...
    @property
    def nbytes(self) -> int: ...

    def raw(self) -> U8Array:
        """The bytes as they lie in the file, (rows, bytes per row), read-only, not copied. A vector is one row."""
        ...

    def numpy(self) -> F32Array:
        """Dequantised to float32, shape `shape`; a fresh array unless the file holds float32."""
        ...


@runtime_checkable
class RowReader(Protocol):
    """A tensor whose bytes are made when they are asked for: some rows take less than all."""

    def raw_rows(self, rows: slice) -> U8Array:
        """`raw()[rows]`, of rows without a step."""
        ...


def raw_rows(tensor: LazyTensor, rows: slice) -> U8Array:
    """The bytes of some rows, without a step, of a tensor that is not a vector, or of a vector's one row."""
    return tensor.raw_rows(rows) if isinstance(tensor, RowReader) else tensor.raw()[rows]


class ModelSource(Protocol):
    """An opened model: one GGUF file (or its split parts) or one Hugging Face directory."""

    @property
    def path(self) -> Path: ...
    @property
    def container(self) -> str:
        """'gguf' or 'safetensors'."""
        ...

    @property
    def metadata(self) -> Mapping[str, object]:
        """GGUF: the key-value pairs, arrays as lists or numpy arrays. Safetensors: the parsed config.json."""
        ...

    @property
    def tensors(self) -> Mapping[str, LazyTensor]: ...
