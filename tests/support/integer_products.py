"""What the CPU's integer products mean, in numpy: weights as whole numbers with scales, rows rounded to 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from plait.formats.quant import BLOCK_FORMATS
from plait.formats.quant.bits import planes
from plait.formats.quant.blocks256 import IQ4_LEVELS
from plait.formats.tensor import F32Array, U8Array
from plait.ops.api import Weight


@dataclass(frozen=True)
class Parts:
    """Blocks in parts of 32 inputs: whole numbers (blocks, parts, 32), their scales (blocks, parts or 1), and minimums
    of 32 or 16 inputs each (blocks, minimums)."""

    numbers: np.ndarray
    scales: F32Array
    minimums: F32Array | None = None


def halves(blocks: U8Array, at: int) -> F32Array:
    """The half at byte `at` of each block, (blocks, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def numbers(values: U8Array, less: int = 0, scales: U8Array | None = None) -> np.ndarray:
    """(blocks, values) to (blocks, parts, 32); whole scales, one for each 16 values, are part of the numbers."""
    whole = values.astype(np.int64) - less
    if scales is not None:
        whole *= np.repeat(scales.astype(np.int64), 16, axis=1)
    return whole.reshape(len(values), -1, 32)


def with_fifth_bit(bits: U8Array, nibbles: U8Array) -> U8Array:
    return planes(nibbles, 4, 16) | np.unpackbits(bits, axis=1, bitorder="little") << 4


def q8_0(blocks: U8Array) -> Parts:
    return Parts(numbers(blocks[:, 2:].view(np.int8)), halves(blocks, 0))


def q4_0(blocks: U8Array) -> Parts:
    return Parts(numbers(planes(blocks[:, 2:], 4, 16), 8), halves(blocks, 0))


def q4_1(blocks: U8Array) -> Parts:
    return Parts(numbers(planes(blocks[:, 4:], 4, 16)), halves(blocks, 0), -halves(blocks, 2))


def q5_0(blocks: U8Array) -> Parts:
    return Parts(numbers(with_fifth_bit(blocks[:, 2:6], blocks[:, 6:]), 16), halves(blocks, 0))


def q5_1(blocks: U8Array) -> Parts:
    values = with_fifth_bit(blocks[:, 4:8], blocks[:, 8:])
    return Parts(numbers(values), halves(blocks, 0), -halves(blocks, 2))


def iq4_nl(blocks: U8Array) -> Parts:
    levels = IQ4_LEVELS.astype(np.int64)[planes(blocks[:, 2:], 4, 16)]
    return Parts(numbers(levels), halves(blocks, 0))


def iq4_xs(blocks: U8Array) -> Parts:
    levels = IQ4_LEVELS.astype(np.int64)[planes(blocks[:, 8:], 4, 16)]
    scales = planes(blocks[:, 4:8], 4, 1) | planes(blocks[:, 2:4], 2, 1) << 4
    return Parts(numbers(levels), halves(blocks, 0) * (scales.astype(np.float32) - 32))


def scales_and_minimums(blocks: U8Array, values: U8Array) -> Parts:
    """Q4_K and Q5_K: eight of each, six bits wide, in bytes 4 to 15."""
    low, high, last = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.hstack([low & 63, (last & 15) | low >> 6 << 4]).astype(np.float32)
    minimums = np.hstack([high & 63, last >> 4 | high >> 6 << 4]).astype(np.float32)
    return Parts(numbers(values), halves(blocks, 0) * scales, halves(blocks, 2) * minimums)


def q4_k(blocks: U8Array) -> Parts:
    return scales_and_minimums(blocks, planes(blocks[:, 16:], 4, 32))


def q5_k(blocks: U8Array) -> Parts:
    return scales_and_minimums(blocks, planes(blocks[:, 48:], 4, 32) | planes(blocks[:, 16:48], 1, 32) << 4)


def q6_k(blocks: U8Array) -> Parts:
    values = planes(blocks[:, :128], 4, 64) | planes(blocks[:, 128:192], 2, 32) << 4
    return Parts(numbers(values, 32, blocks[:, 192:208].view(np.int8)), halves(blocks, 208))


def q3_k(blocks: U8Array) -> Parts:
    values = planes(blocks[:, 32:96], 2, 32) | planes(blocks[:, :32], 1, 32) << 2
    scales = planes(blocks[:, 96:104], 4, 8) | planes(blocks[:, 104:108], 2, 4) << 4
    return Parts(numbers(values, 4, scales.astype(np.int64) - 32), halves(blocks, 108))


def q2_k(blocks: U8Array) -> Parts:
    whole = numbers(planes(blocks[:, 16:80], 2, 32), 0, blocks[:, :16] & 15)
    return Parts(whole, halves(blocks, 80), halves(blocks, 82) * (blocks[:, :16] >> 4).astype(np.float32))


PARTS: dict[str, Callable[[U8Array], Parts]] = {
    "Q8_0": q8_0,
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q5_1": q5_1,
    "IQ4_NL": iq4_nl,
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
    "IQ4_XS": iq4_xs,
    "Q2_K": q2_k,
    "Q3_K": q3_k,
}
"""The formats whose products are in integers."""


def parts_of(matrix: Weight) -> Parts:
    """Those of whole rows: numbers (rows, parts, 32), scales (rows, parts), minimums (rows, minimums)."""
    rows = matrix.shape[0]
    blocks = np.ascontiguousarray(matrix.tensor.raw()).reshape(-1, BLOCK_FORMATS[matrix.format].block_bytes)
    parts = PARTS[matrix.format](blocks)
    scales = np.broadcast_to(parts.scales, parts.numbers.shape[:2]).reshape(rows, -1)
    minimums = None if parts.minimums is None else parts.minimums.reshape(rows, -1)
    return Parts(parts.numbers.reshape(rows, -1, 32), scales, minimums)


def defined_product(x: F32Array, matrix: Weight) -> F32Array:
    """Each block of 32 inputs rounded to 127 steps to either side; exact sums, scaled and added in order in float32.
    Minimums are taken off with the sum of what their inputs were rounded to."""
    weights = parts_of(matrix)
    blocks = x.reshape(len(x), -1, 32)
    largest = np.abs(blocks).max(axis=-1)
    inverse = np.divide(np.float32(127), largest, where=largest > 0, out=np.zeros_like(largest))
    rounded = np.rint(blocks * inverse[..., None]).astype(np.int64)
    steps = largest / np.float32(127)
    total = np.zeros((len(x), matrix.shape[0]), np.float32)
    for b in range(blocks.shape[1]):
        exact = (rounded[:, b] @ weights.numbers[:, b].T).astype(np.float32)
        total += exact * (weights.scales[:, b] * steps[:, b, None])
        if weights.minimums is not None:
            each = weights.minimums.shape[1] // blocks.shape[1]
            sums = rounded[:, b].reshape(len(x), each, -1).sum(axis=-1).astype(np.float32)
            for i in range(each):
                total -= weights.minimums[:, b * each + i] * (steps[:, b, None] * sums[:, i, None])
    return total
