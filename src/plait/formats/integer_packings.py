"""How AWQ, GPTQ and compressed-tensors store a matrix of integers: its words, zeros, scales and groups.

Sources: AutoAWQ (awq/utils/packing_utils.py, gemm), AutoGPTQ (qlinear_cuda_old.py), compressed-tensors
(compressors/pack_quantized). Knows stored tensors; a packing hands out any rows of its matrix, one for each output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from plait.formats.quant.integers import I16Array, U32Array, fields
from plait.formats.stored import StoredTensor
from plait.formats.tensor import F32Array, U8Array

WORD = 32
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # in a word of eight outputs, where output i is


class Packing(Protocol):
    """A matrix of `outputs` rows. `first` is a multiple of 8; so is `last`, or it is beyond the last row."""

    @property
    def outputs(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    @property
    def n_groups(self) -> int: ...
    @property
    def bits(self) -> int: ...
    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """The stored tensors that it is made of."""
        ...

    def levels(self, first: int, last: int) -> U8Array:
        """Unsigned, (rows, inputs)."""
        ...

    def zeros(self, first: int, last: int) -> I16Array:
        """The level that stands for 0, (rows, groups)."""
        ...

    def scales(self, first: int, last: int) -> F32Array:
        """(rows, groups)"""
        ...


def words(tensor: StoredTensor) -> U32Array:
    """The stored 32-bit words, (rows, words of a row)."""
    return tensor.data.view("<u4").reshape(tensor.shape)


@dataclass(frozen=True, slots=True, eq=False)
class _ByInput:
    """What AWQ and GPTQ share: words, zeros and scales lie input by input, or group by group."""

    qweight: StoredTensor
    qzeros: StoredTensor
    stored_scales: StoredTensor
    bits: int

    @property
    def outputs(self) -> int:
        return self.stored_scales.shape[1]

    @property
    def n_groups(self) -> int:
        return self.stored_scales.shape[0]

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        return self.qweight, self.qzeros, self.stored_scales

    def scales(self, first: int, last: int) -> F32Array:
        return np.ascontiguousarray(self.stored_scales.numpy()[:, first:last].T)


class Awq(_ByInput):
    """Eight outputs of one input in a word, the even ones first; zeros alike."""

    __slots__ = ()

    @property
    def inputs(self) -> int:
        return self.qweight.shape[0]

    def levels(self, first: int, last: int) -> U8Array:
        return _unshuffled(words(self.qweight), first, last)

    def zeros(self, first: int, last: int) -> I16Array:
        return _unshuffled(words(self.qzeros), first, last).astype(np.int16)


def _unshuffled(stored: U32Array, first: int, last: int) -> U8Array:
    """(n, outputs / 8) words to (outputs, n), of outputs `first` to before `last`."""
    turned = np.ascontiguousarray(stored[:, first // 8 : last // 8].T)
    out = np.empty((len(turned), 8, turned.shape[1]), np.uint8)
    for i, place in enumerate(_AWQ_PLACES):
        np.bitwise_and(turned >> np.uint32(4 * place), np.uint32(15), out=out[:, i], casting="unsafe")
    return out.reshape(-1, turned.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Gptq(_ByInput):
    """Some inputs of one output in a word; the zeros of some outputs. `less`: what the file's zeros are too small by,
    1 in the first version of the format."""

    less: int = 1

    @property
    def inputs(self) -> int:
        return self.qweight.shape[0] * WORD // self.bits

    def levels(self, first: int, last: int) -> U8Array:
        return fields(words(self.qweight)[:, first:last].T, self.bits)

    def zeros(self, first: int, last: int) -> I16Array:
        stored = fields(words(self.qzeros), self.bits)[:, first:last].T.astype(np.int16)
        # A zero of 0 is stored as the largest number.
        return (stored + self.less) & ((1 << self.bits) - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """compressed-tensors: some inputs of one output in a word, or bytes with a sign; a scale for each group, each
    output, or all. Without zeros the middle level is 0."""

    weight: StoredTensor
    weight_scale: StoredTensor
    weight_zero: StoredTensor | None
    shape: tuple[int, int]
    bits: int

    @property
    def outputs(self) -> int:
        return self.shape[0]

    @property
    def inputs(self) -> int:
        return self.shape[1]

    @property
    def n_groups(self) -> int:
        return self.weight_scale.shape[1] if len(self.weight_scale.shape) == 2 else 1

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        return tuple(part for part in (self.weight, self.weight_scale, self.weight_zero) if part is not None)

    def levels(self, first: int, last: int) -> U8Array:
        if self.weight.format == "I8":
            return self.weight.data.reshape(self.shape)[first:last] ^ np.uint8(128)
        return fields(words(self.weight)[first:last], self.bits)[:, : self.inputs]

    def zeros(self, first: int, last: int) -> I16Array:
        middle = 1 << (self.bits - 1)
        if self.weight_zero is None:
            return self._each(np.full((1, 1), middle, np.int16), first, last)
        if self.weight_zero.format == "I8":
            signed = self.weight_zero.data.view(np.int8).astype(np.int16).reshape(-1, self.n_groups)
            return self._each(signed, first, last) + np.int16(middle)
        # Packed along the outputs.
        return fields(words(self.weight_zero).T, self.bits)[:, first:last].T.astype(np.int16)

    def scales(self, first: int, last: int) -> F32Array:
        return self._each(self.weight_scale.numpy().reshape(-1, self.n_groups), first, last)

    def _each(self, values: np.ndarray, first: int, last: int) -> np.ndarray:
        """Those of the rows, where there is but one for all, too."""
        return np.broadcast_to(values, (self.outputs, self.n_groups))[first:last]
