"""What the CPU's integer products mean, in numpy: weights as whole numbers with scales, rows rounded to 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from plait.formats.quant import BLOCK_FORMATS, blocks_iq, ternary
from plait.formats.quant.bits import planes
from plait.formats.quant.blocks256 import IQ4_LEVELS
from plait.formats.tensor import F32Array, U8Array
from plait.ops.api import Weight


@dataclass(frozen=True)
class Parts:
    """Whole numbers (blocks, parts, inputs of a part), a block's scale and minimum (blocks, 1). In blocks of 256 parts
    may have whole scales, too (blocks, parts), and `whole_minimums` (blocks, 8 or 16) are times the minimum."""

    numbers: np.ndarray
    scales: F32Array
    minimums: F32Array | None = None
    whole_scales: np.ndarray | None = None
    whole_minimums: np.ndarray | None = None


def halves(blocks: U8Array, at: int) -> F32Array:
    """The half at byte `at` of each block, (blocks, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def numbers(values: U8Array, less: int = 0, parts: int = 1) -> np.ndarray:
    """(blocks, values) to (blocks, parts, values of a part)."""
    return (values.astype(np.int64) - less).reshape(len(values), parts, -1)


def scaled(values: U8Array, less: int, scales: np.ndarray) -> np.ndarray:
    """One part: numbers times the whole scale of their 16."""
    return numbers((values.astype(np.int64) - less) * np.repeat(scales.astype(np.int64), 16, axis=1))


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
    return Parts(numbers(levels, 0, 8), halves(blocks, 0), whole_scales=scales.astype(np.int64) - 32)


def scales_and_minimums(blocks: U8Array, values: U8Array) -> Parts:
    """Q4_K and Q5_K: eight of each, six bits wide, in bytes 4 to 15."""
    low, high, last = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.hstack([low & 63, (last & 15) | low >> 6 << 4])
    minimums = np.hstack([high & 63, last >> 4 | high >> 6 << 4])
    return Parts(numbers(values, 0, 8), halves(blocks, 0), halves(blocks, 2), scales, minimums)


def q4_k(blocks: U8Array) -> Parts:
    return scales_and_minimums(blocks, planes(blocks[:, 16:], 4, 32))


def q5_k(blocks: U8Array) -> Parts:
    return scales_and_minimums(blocks, planes(blocks[:, 48:], 4, 32) | planes(blocks[:, 16:48], 1, 32) << 4)


def q6_k(blocks: U8Array) -> Parts:
    values = planes(blocks[:, :128], 4, 64) | planes(blocks[:, 128:192], 2, 32) << 4
    return Parts(numbers(values, 32, 16), halves(blocks, 208), whole_scales=blocks[:, 192:208].view(np.int8))


def q3_k(blocks: U8Array) -> Parts:
    values = planes(blocks[:, 32:96], 2, 32) | planes(blocks[:, :32], 1, 32) << 2
    scales = planes(blocks[:, 96:104], 4, 8) | planes(blocks[:, 104:108], 2, 4) << 4
    return Parts(scaled(values, 4, scales.astype(np.int64) - 32), halves(blocks, 108))


def q2_k(blocks: U8Array) -> Parts:
    whole = scaled(planes(blocks[:, 16:80], 2, 32), 0, blocks[:, :16] & 15)
    return Parts(whole, halves(blocks, 80), halves(blocks, 82), None, blocks[:, :16] >> 4)


def levelled(levels_of: Callable[[U8Array], blocks_iq.Levels], factor: float) -> Callable[[U8Array], Parts]:
    """IQ1 to IQ3: the levels as the reference reads them, which is compared with `gguf`."""

    def parts(blocks: U8Array) -> Parts:
        found = levels_of(blocks)
        runs = found.levels.astype(np.int64).reshape(len(blocks), found.scales.shape[1], -1)
        return Parts(runs, found.d * np.float32(factor), whole_scales=found.scales.astype(np.int64))

    return parts


def ternary_parts(values: U8Array, d: F32Array) -> Parts:
    """d times 0 to 3, less d."""
    return Parts(numbers(values), d, d, None, np.ones((len(values), 16), np.int64))


def tq1_0(blocks: U8Array) -> Parts:
    return ternary_parts(ternary.trits_tq1_0(blocks), halves(blocks, 52))


def tq2_0(blocks: U8Array) -> Parts:
    return ternary_parts(planes(blocks[:, :64], 2, 32), halves(blocks, 64))


def mxfp4(blocks: U8Array) -> Parts:
    levels = ternary.MXFP4_LEVELS.astype(np.int64)[planes(blocks[:, 1:], 4, 16)]
    return Parts(numbers(levels), ternary.e8m0_halves(blocks[:, :1]))


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
    "IQ1_S": levelled(blocks_iq.levels_iq1_s, 0.125),
    "IQ1_M": levelled(blocks_iq.levels_iq1_m, 0.125),
    "IQ2_XXS": levelled(blocks_iq.levels_iq2_xxs, 0.125),
    "IQ2_XS": levelled(blocks_iq.levels_iq2_xs, 0.125),
    "IQ2_S": levelled(blocks_iq.levels_iq2_s, 0.125),
    "IQ3_XXS": levelled(blocks_iq.levels_iq3_xxs, 0.25),
    "IQ3_S": levelled(blocks_iq.levels_iq3_s, 1),
    "TQ1_0": tq1_0,
    "TQ2_0": tq2_0,
    "MXFP4": mxfp4,
}
"""The formats whose products are in integers."""


def parts_of(matrix: Weight) -> Parts:
    """Those of its blocks, rows by rows."""
    blocks = np.ascontiguousarray(matrix.tensor.raw()).reshape(-1, BLOCK_FORMATS[matrix.format].block_bytes)
    return PARTS[matrix.format](blocks)


def rounded(x: F32Array, inputs: int) -> tuple[np.ndarray, F32Array]:
    """Runs of so many inputs in 127 steps to either side, (rows, runs, inputs), and their steps (rows, runs, 1)."""
    runs = x.reshape(len(x), -1, inputs)
    largest = np.abs(runs).max(axis=-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, where=largest > 0, out=np.zeros_like(largest))
    return np.rint(runs * inverse).astype(np.int64), largest / np.float32(127)


def block_product(q: np.ndarray, numbers: np.ndarray, scales: np.ndarray | None) -> F32Array:
    """Of rows (rows, inputs) with a block's parts (outputs, parts, inputs): exact sums, times whole scales, added up
    in order."""
    parts = numbers.shape[1]
    exact = [(q.reshape(len(q), parts, -1)[:, p] @ numbers[:, p].T).astype(np.float32) for p in range(parts)]
    if scales is None:
        return exact[0]
    total = np.zeros_like(exact[0])
    for p, sums in enumerate(exact):
        total += sums * scales[:, p].astype(np.float32)
    return total


def defined_product(x: F32Array, matrix: Weight) -> F32Array:
    """Rows rounded with a scale for each block of the weight; the blocks' products are scaled and added in order in
    float32. Minimums are taken off with the sums of what their inputs were rounded to."""
    weights, outputs = parts_of(matrix), matrix.shape[0]
    q, steps = rounded(x, BLOCK_FORMATS[matrix.format].block_values)
    total = np.zeros((len(x), outputs), np.float32)
    for b in range(q.shape[1]):
        mine = slice(b, None, q.shape[1])
        whole = None if weights.whole_scales is None else weights.whole_scales[mine]
        total += block_product(q[:, b], weights.numbers[mine], whole) * (weights.scales[mine].T * steps[:, b])
        if weights.minimums is None:
            continue
        if weights.whole_minimums is None:
            sums = q[:, b].sum(axis=-1, keepdims=True).astype(np.float32)
            total -= weights.minimums[mine].T * (steps[:, b] * sums)
        else:
            minimums = weights.whole_minimums[mine].astype(np.int64)
            sums = q[:, b].reshape(len(x), minimums.shape[1], -1).sum(axis=-1)
            total -= (sums @ minimums.T).astype(np.float32) * (weights.minimums[mine].T * steps[:, b])
    return total
