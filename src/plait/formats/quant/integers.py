"""Integers with a scale and a zero for each group of inputs, as checkpoints of PyTorch pack them: taking them out of
their words, what they mean, and the block formats that hold them.

A level u is unsigned; the weight it stands for is scale * (u - zero). Levels less zeros are small whole numbers, so
that a block format with signed numbers and a scale in half precision holds them without loss, where its blocks of 32
lie within the groups. Knows numpy alone.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from plait.formats.quant.bits import F32Array, U8Array, pack_nibbles

I16Array: TypeAlias = npt.NDArray[np.int16]
I32Array: TypeAlias = npt.NDArray[np.int32]
U32Array: TypeAlias = npt.NDArray[np.uint32]

BLOCK = 32
_LOWEST = {"Q4_0": -8, "Q5_0": -16, "Q8_0": -128}


def fields(words: U32Array, bits: int) -> U8Array:
    """The fields of `bits` bits (2, 4 or 8) of each word, the lowest first: (n, m) to (n, m * 32 / bits)."""
    data = np.ascontiguousarray(words, "<u4").view(np.uint8)
    if bits == 8:
        return data
    out = np.empty((*data.shape, 8 // bits), np.uint8)
    for i in range(8 // bits):
        np.right_shift(data, np.uint8(i * bits), out=out[..., i])
        out[..., i] &= np.uint8((1 << bits) - 1)
    return out.reshape(len(data), -1)


def dequantize_levels(levels: U8Array, zeros: I16Array, scales: F32Array) -> F32Array:
    """scale * (level - zero), float32, of arrays that broadcast to the shape of `levels`."""
    values = (levels - zeros).astype(np.float32)
    values *= scales
    return values


def narrowest_format(lowest: int, highest: int) -> str | None:
    """The smallest block format that holds whole numbers from `lowest` to `highest`; None if there is none."""
    for name, low in _LOWEST.items():
        if low <= lowest and highest < -low:
            return name
    return None


def fits_half(scales: F32Array) -> bool:
    """Whether half precision holds these scales as well as it holds any: no larger than its largest number, and none
    that it keeps with fewer than its 11 bits, unless exactly."""
    with np.errstate(over="ignore"):
        halves = scales.astype("<f2").astype(np.float32)
    return bool(np.all((halves == scales) | ((np.abs(scales) >= 2.0**-14) & (np.abs(scales) <= 65504))))


def pack_levels(levels: U8Array, zeros: I16Array, scales: F32Array, name: str) -> U8Array:
    """Blocks of the format `name`, bytes (n, bytes per row). `zeros` and `scales` are (n, blocks of 32 inputs); every
    level less its zero is a number that the format holds."""
    # Modulo 256: what was below zero comes back when the sum is taken.
    shift = (-_LOWEST[name] - zeros).astype(np.uint8)
    raised = (levels.reshape(*zeros.shape, BLOCK) + shift[:, :, None]).reshape(-1, BLOCK)
    halves = np.ascontiguousarray(scales, "<f2").reshape(-1, 1).view(np.uint8)
    return _PACK[name](halves, raised).reshape(len(levels), -1)


def _pack_4(halves: U8Array, raised: U8Array) -> U8Array:
    return np.hstack([halves, pack_nibbles(raised, 16)])


def _pack_5(halves: U8Array, raised: U8Array) -> U8Array:
    fifth = np.packbits(raised >> np.uint8(4), axis=1, bitorder="little")
    return np.hstack([halves, fifth, pack_nibbles(raised & np.uint8(15), 16)])


def _pack_8(halves: U8Array, raised: U8Array) -> U8Array:
    return np.hstack([halves, raised ^ np.uint8(128)])


_PACK = {"Q4_0": _pack_4, "Q5_0": _pack_5, "Q8_0": _pack_8}
