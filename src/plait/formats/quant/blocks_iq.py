"""The formats whose values come out of a grid: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S.

Layouts and meaning are those of ggml (ggml-common.h, ggml-quants.c). A superblock of 256 values has a half-precision
scale d, odd whole scales s for runs of 16 or 32 values, and codes, each for 8 (IQ3: 4) values of a grid, with signs
beside them; IQ1 moves its values by an eighth instead. So x = d * f * s * level, with whole levels and a fixed power
of two f: products that are exact in float32, whatever their order. Knows numpy and the grids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plait.formats.quant.bits import F32Array, U8Array, half_at, planes
from plait.formats.quant.grids import grid

_EIGHTH, _QUARTER, _ONE = np.float32(0.125), np.float32(0.25), np.float32(1)


@dataclass(frozen=True, slots=True)
class Levels:
    """Blocks as whole numbers: `levels` (n, 256), `scales` (n, 8 or 16) of equal runs, `d` (n, 1)."""

    levels: npt.NDArray[np.int8]
    scales: npt.NDArray[np.int8]
    d: F32Array


def _words(data: U8Array, dtype: str) -> npt.NDArray[np.int64]:
    return np.ascontiguousarray(data).view(dtype).astype(np.int64)


def _odd(data: npt.NDArray[np.int64] | U8Array) -> npt.NDArray[np.int8]:
    return (2 * data.astype(np.int8) + np.int8(1)).astype(np.int8)


def _signs(bits: U8Array) -> npt.NDArray[np.int8]:
    """(n, m) bytes to (n, 8 m): -1 where a bit is set, the lowest first."""
    return (1 - 2 * np.unpackbits(bits, axis=1, bitorder="little").astype(np.int8)).astype(np.int8)


def _even_signs(words: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
    """Seven signs of eight; the last one makes their number even. (n, m) to (n, 8 m)."""
    seven = (words & 127).astype(np.uint8)
    return _signs(seven | (np.bitwise_count(seven) & np.uint8(1)) << np.uint8(7))


def _of(name: str, codes: npt.NDArray[np.int64] | U8Array) -> npt.NDArray[np.int8]:
    return grid(name)[codes].reshape(len(codes), -1)


def _four_sevens(words: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    sevens: npt.NDArray[np.int64] = words[:, :, None] >> np.array([0, 7, 14, 21])
    return sevens.reshape(len(words), -1)


def levels_iq2_xxs(blocks: U8Array) -> Levels:
    """d: half; for each 32 values four codes, and a word of four times seven signs and s; f = 1/8."""
    words = _words(blocks[:, 2:], "<u4")
    codes, signs = np.ascontiguousarray(words[:, ::2]).astype("<u4").view(np.uint8), words[:, 1::2]
    return Levels(_of("IQ2_XXS", codes) * _even_signs(_four_sevens(signs)), _odd(signs >> 28), half_at(blocks, 0))


def levels_iq2_xs(blocks: U8Array) -> Levels:
    """d: half; 32 words of a code of 9 bits and seven signs; 16 nibbles s; f = 1/8."""
    words = _words(blocks[:, 2:66], "<u2")
    scales = _odd(planes(blocks[:, 66:], 4, 1))
    return Levels(_of("IQ2_XS", words & 511) * _even_signs(words >> 9), scales, half_at(blocks, 0))


def levels_iq2_s(blocks: U8Array) -> Levels:
    """d: half; low bytes of 32 codes; 256 signs; upper bit pairs of the codes; 16 nibbles s; f = 1/8."""
    codes = blocks[:, 2:34].astype(np.int64) | planes(blocks[:, 66:74], 2, 1).astype(np.int64) << 8
    return Levels(
        _of("IQ2_S", codes) * _signs(blocks[:, 34:66]), _odd(planes(blocks[:, 74:], 4, 1)), half_at(blocks, 0)
    )


def levels_iq3_xxs(blocks: U8Array) -> Levels:
    """d: half; 64 codes; for each 32 values a word of four times seven signs and s; f = 1/4."""
    words = _words(blocks[:, 66:], "<u4")
    levels = _of("IQ3_XXS", blocks[:, 2:66]) * _even_signs(_four_sevens(words))
    return Levels(levels, _odd(words >> 28), half_at(blocks, 0))


def levels_iq3_s(blocks: U8Array) -> Levels:
    """d: half; low bytes of 64 codes; their ninth bits; 256 signs; 8 nibbles s; f = 1."""
    codes = blocks[:, 2:66].astype(np.int64) | planes(blocks[:, 66:74], 1, 1).astype(np.int64) << 8
    return Levels(
        _of("IQ3_S", codes) * _signs(blocks[:, 74:106]), _odd(planes(blocks[:, 106:], 4, 1)), half_at(blocks, 0)
    )


def _moved(levels: npt.NDArray[np.int8], negative: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
    """Each run's levels, and one eighth more, or less where `negative` (n, runs)."""
    runs = levels.reshape(len(levels), negative.shape[1], -1)
    return (runs + np.where(negative != 0, -1, 1)[:, :, None]).astype(np.int8).reshape(len(levels), -1)


def levels_iq1_s(blocks: U8Array) -> Levels:
    """d: half; low bytes of 32 codes; for each 32 values a word: four times three high bits, s, a sign; f = 1/8."""
    words = _words(blocks[:, 34:], "<u2")
    high = (words[:, :, None] >> np.array([0, 3, 6, 9]) & 7).reshape(len(blocks), -1)
    levels = _of("IQ1_S", blocks[:, 2:34].astype(np.int64) | high << 8)
    return Levels(_moved(levels, words >> 15), _odd(words >> 12 & 7), half_at(blocks, 0))


def levels_iq1_m(blocks: U8Array) -> Levels:
    """Low bytes of 32 codes; a nibble for each: three high bits, a sign; four words of four times three bits of s,
    whose last four bits make the half d; f = 1/8."""
    nibbles = planes(blocks[:, 32:48], 4, 1).astype(np.int64)
    words = _words(blocks[:, 48:], "<u2")
    scales = (words[:, :, None] >> np.array([0, 3, 6, 9]) & 7).reshape(len(blocks), -1)
    half = (words >> 12 << np.array([0, 4, 8, 12])).sum(axis=1, keepdims=True)
    d = half.astype("<u2").view("<f2").astype(np.float32)
    levels = _of("IQ1_S", blocks[:, :32].astype(np.int64) | (nibbles & 7) << 8)
    return Levels(_moved(levels, nibbles & 8), _odd(scales), d)


def _dequantizer(levels_of: Callable[[U8Array], Levels], factor: np.float32) -> Callable[[U8Array], F32Array]:
    def dequantize(blocks: U8Array) -> F32Array:
        """d * f * s * level, float32 (n, 256)."""
        found = levels_of(blocks)
        runs = found.levels.reshape(len(blocks), found.scales.shape[1], -1).astype(np.float32)
        scales: F32Array = found.d * factor * found.scales.astype(np.float32)
        return (runs * scales[:, :, None]).reshape(len(blocks), -1)

    return dequantize


dequantize_iq1_s = _dequantizer(levels_iq1_s, _EIGHTH)
dequantize_iq1_m = _dequantizer(levels_iq1_m, _EIGHTH)
dequantize_iq2_xxs = _dequantizer(levels_iq2_xxs, _EIGHTH)
dequantize_iq2_xs = _dequantizer(levels_iq2_xs, _EIGHTH)
dequantize_iq2_s = _dequantizer(levels_iq2_s, _EIGHTH)
dequantize_iq3_xxs = _dequantizer(levels_iq3_xxs, _QUARTER)
dequantize_iq3_s = _dequantizer(levels_iq3_s, _ONE)
