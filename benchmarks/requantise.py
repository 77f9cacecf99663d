"""Rounds a model's matrices to any block format that Plait reads, in memory: for comparing formats, and for tests.

The K-quants and IQ4 formats are rounded in the simplest way (the range of each run decides its scale); llama-quantize
searches for better scales, so its files lose less. Layouts: plait.formats.quant, whose functions these invert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plait.formats.quant import BLOCK_FORMATS, quantize
from plait.formats.quant.bits import F32Array, U8Array, half_at, half_bytes
from plait.formats.quant.blocks256 import IQ4_LEVELS
from plait.formats.stored import StoredTensor
from plait.formats.tensor import LazyTensor, ModelSource


@dataclass(frozen=True)
class MemorySource:
    """A model whose tensors lie in memory; everything else is that of the file it was made from."""

    path: Path
    container: str
    metadata: Mapping[str, object]
    tensors: Mapping[str, LazyTensor]


def requantised(source: ModelSource, name: str) -> MemorySource:
    """The model with every matrix in format `name`; vectors stay as they are. From Q8_0 or F16 weights this rounds a
    second time, which does no harm to a comparison of kernels."""
    return _converted(source, lambda tensor: _rounded(tensor, name))


def dequantised(source: ModelSource) -> MemorySource:
    """The model with the very values that its matrices stand for, as F32."""
    return _converted(source, lambda tensor: _stored(tensor, "F32", tensor.numpy().view(np.uint8)))


def _converted(source: ModelSource, convert: Callable[[LazyTensor], LazyTensor]) -> MemorySource:
    tensors = {name: convert(t) if len(t.shape) > 1 else t for name, t in source.tensors.items()}
    return MemorySource(source.path, source.container, source.metadata, tensors)


def _rounded(tensor: LazyTensor, name: str) -> LazyTensor:
    if tensor.format == name:
        return tensor
    return _stored(tensor, name, quantise(tensor.numpy().reshape(-1, tensor.shape[-1]), name))


def _stored(tensor: LazyTensor, name: str, data: U8Array) -> StoredTensor:
    return StoredTensor(tensor.name, tensor.shape, name, np.ascontiguousarray(data).reshape(-1), Path("memory"))


def quantise(values: F32Array, name: str) -> U8Array:
    """Float32 (rows, n) to bytes (rows, bytes per row)."""
    fmt = BLOCK_FORMATS[name]
    if fmt.quantize is not None:
        return quantize(values, name)
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, fmt.block_values)
    packed = np.concatenate([QUANTISERS[name](part) for part in np.array_split(blocks, 1 + len(blocks) // 4096)])
    assert packed.shape == (len(blocks), fmt.block_bytes)
    return packed.reshape(len(values), -1)


def pack(values: U8Array, bits: int, group: int) -> U8Array:
    """The inverse of `bits.planes`: fields of `bits` bits, within runs of `group` bytes the lowest ones first."""
    count = 8 // bits
    fields = values.reshape(len(values), -1, count, group) << np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(fields, axis=2).reshape(len(values), -1)


def _nearest(values: F32Array, low: int, high: int) -> F32Array:
    return np.rint(values).clip(low, high)


def _divided(values: F32Array, by: F32Array) -> F32Array:
    return np.divide(values, by, out=np.zeros_like(values), where=by != 0)


def _whole(values: F32Array) -> U8Array:
    return values.astype(np.int16).astype(np.uint8)


def _with_offset(blocks: F32Array, levels: int) -> tuple[F32Array, F32Array, U8Array]:
    """Blocks of 32 as d*q + m: the rounded d and m (n, 1), and q."""
    low = blocks.min(axis=1, keepdims=True)
    d = half_at(half_bytes((blocks.max(axis=1, keepdims=True) - low) / np.float32(levels)), 0)
    low = half_at(half_bytes(low), 0)
    return d, low, _whole(_nearest(_divided(blocks - low, np.broadcast_to(d, blocks.shape)), 0, levels))


def _fifth_bits(q: U8Array) -> U8Array:
    return np.packbits(q >> 4, axis=1, bitorder="little")


def _q4_1(blocks: F32Array) -> U8Array:
    d, low, q = _with_offset(blocks, 15)
    return np.hstack([half_bytes(d), half_bytes(low), pack(q, 4, 16)])


def _q5_1(blocks: F32Array) -> U8Array:
    d, low, q = _with_offset(blocks, 31)
    return np.hstack([half_bytes(d), half_bytes(low), _fifth_bits(q), pack(q & 15, 4, 16)])


def _q5_0(blocks: F32Array) -> U8Array:
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    d = half_at(half_bytes(largest / np.float32(-16)), 0)
    q = _whole(_nearest(_divided(blocks, np.broadcast_to(d, blocks.shape)), -16, 15) + 16)
    return np.hstack([half_bytes(d), _fifth_bits(q), pack(q & 15, 4, 16)])


def _runs_with_minima(
    blocks: F32Array, runs: int, levels: int, most: int
) -> tuple[F32Array, F32Array, U8Array, U8Array, U8Array]:
    """Superblocks as d*s*q - dmin*m in `runs` runs, s and m up to `most`. Returns d, dmin (n, 1), s, m (n, runs), and
    q (n, 256)."""
    parts = blocks.reshape(len(blocks), runs, -1)
    low = np.minimum(parts.min(axis=2), 0)
    spans = (np.maximum(parts.max(axis=2), 0) - low) / np.float32(levels)
    d = half_at(half_bytes(spans.max(axis=1, keepdims=True) / np.float32(most)), 0)
    dmin = half_at(half_bytes((-low).max(axis=1, keepdims=True) / np.float32(most)), 0)
    s = _nearest(_divided(spans, np.broadcast_to(d, spans.shape)), 0, most)
    m = _nearest(_divided(-low, np.broadcast_to(dmin, low.shape)), 0, most)
    scale = np.broadcast_to((d * s)[:, :, None], parts.shape)
    q = _nearest(_divided(parts + (dmin * m)[:, :, None], scale), 0, levels)
    return d, dmin, _whole(s), _whole(m), _whole(q).reshape(blocks.shape)


def _six_bits(s: U8Array, m: U8Array) -> U8Array:
    """Eight scales and eight minima in 12 bytes."""
    first = s[:, :4] | (s[:, 4:] >> 4 << 6)
    second = m[:, :4] | (m[:, 4:] >> 4 << 6)
    return np.hstack([first, second, (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4])


def _q2_k(blocks: F32Array) -> U8Array:
    d, dmin, s, m, q = _runs_with_minima(blocks, 16, 3, 15)
    return np.hstack([s | m << 4, pack(q, 2, 32), half_bytes(d), half_bytes(dmin)])


def _q4_k(blocks: F32Array) -> U8Array:
    d, dmin, s, m, q = _runs_with_minima(blocks, 8, 15, 63)
    return np.hstack([half_bytes(d), half_bytes(dmin), _six_bits(s, m), pack(q, 4, 32)])


def _q5_k(blocks: F32Array) -> U8Array:
    d, dmin, s, m, q = _runs_with_minima(blocks, 8, 31, 63)
    return np.hstack([half_bytes(d), half_bytes(dmin), _six_bits(s, m), pack(q >> 4, 1, 32), pack(q & 15, 4, 32)])


def _signed_runs(blocks: F32Array, runs: int, least: int, most: int) -> tuple[F32Array, F32Array, F32Array]:
    """Superblocks as d*s*q with signed s in least..most: d (n, 1), s (n, runs), and d*s for each value (n, 256). The
    value of largest magnitude is worth -1 in units of its run's peak, so that it meets q's longer, negative side."""
    parts = blocks.reshape(len(blocks), runs, -1)
    peaks = np.take_along_axis(parts, np.abs(parts).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    top = np.take_along_axis(peaks, np.abs(peaks).argmax(axis=1, keepdims=True), axis=1)
    d = half_at(half_bytes(top / np.float32(least)), 0)
    s = _nearest(_divided(peaks, np.broadcast_to(d, peaks.shape)), least, most)
    return d, s, np.repeat(d * s, blocks.shape[1] // runs, axis=1)


def _q3_k(blocks: F32Array) -> U8Array:
    d, s, unit = _signed_runs(blocks, 16, -32, 31)
    q = _whole(_nearest(_divided(blocks, unit / np.float32(-4)), -4, 3) + 4)
    codes = _whole(s + 32)
    packed = np.hstack([pack(codes & 15, 4, 8), pack(codes >> 4, 2, 4)])
    return np.hstack([pack(q >> 2, 1, 32), pack(q & 3, 2, 32), packed, half_bytes(d / np.float32(-4))])


def _q6_k(blocks: F32Array) -> U8Array:
    d, s, unit = _signed_runs(blocks, 16, -128, 127)
    q = _whole(_nearest(_divided(blocks, unit / np.float32(-32)), -32, 31) + 32)
    scales = s.astype(np.int8).view(np.uint8)
    return np.hstack([pack(q & 15, 4, 64), pack(q >> 4, 2, 32), scales, half_bytes(d / np.float32(-32))])


def _nearest_level(values: F32Array) -> U8Array:
    between = (IQ4_LEVELS[1:] + IQ4_LEVELS[:-1]) / 2
    return np.searchsorted(between, values).astype(np.uint8)


def _iq4_nl(blocks: F32Array) -> U8Array:
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    d = half_at(half_bytes(largest / IQ4_LEVELS[0]), 0)
    return np.hstack([half_bytes(d), pack(_nearest_level(_divided(blocks, np.broadcast_to(d, blocks.shape))), 4, 16)])


def _iq4_xs(blocks: F32Array) -> U8Array:
    d, s, unit = _signed_runs(blocks, 8, -32, 31)
    q = _nearest_level(_divided(blocks, unit / IQ4_LEVELS[0]))
    codes = _whole(s + 32)
    packed = np.hstack([pack(codes >> 4, 2, 1), pack(codes & 15, 4, 1), pack(q, 4, 16)])
    return np.hstack([half_bytes(d / IQ4_LEVELS[0]), packed])


QUANTISERS: Mapping[str, Callable[[F32Array], U8Array]] = {
    "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k,
    "Q6_K": _q6_k, "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs,
}  # fmt: skip

FORMATS = tuple(name for name, fmt in BLOCK_FORMATS.items() if name in QUANTISERS or fmt.quantize is not None)
"""What values can be rounded to here; formats of grids and of fewer bits are only read."""
