"""The formats with blocks of 32 values: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

Layouts and meaning are those of ggml (ggml-common.h, ggml-quants.c). Nibbles: value i < 16 is the low half of byte i,
value 16 + i the high half. Every function takes blocks as bytes (n, block_bytes) and gives float32 (n, 32), with one
rounding for each product and sum; the quantisers do the reverse. Knows numpy alone.
"""

from __future__ import annotations

import numpy as np

from plait.formats.quant.bits import F32Array, U8Array, half_at, half_bytes, pack_nibbles, planes


def dequantize_q4_0(blocks: U8Array) -> F32Array:
    """d: half, 32 nibbles; x = d * (q - 8)."""
    q = planes(blocks[:, 2:], 4, 16)
    return half_at(blocks, 0) * (q.astype(np.float32) - 8)


def dequantize_q4_1(blocks: U8Array) -> F32Array:
    """d, m: halves, 32 nibbles; x = d * q + m."""
    q = planes(blocks[:, 4:], 4, 16)
    return half_at(blocks, 0) * q.astype(np.float32) + half_at(blocks, 2)


def _with_fifth_bit(bits: U8Array, nibbles: U8Array) -> F32Array:
    high = np.unpackbits(bits, axis=1, bitorder="little")
    return (planes(nibbles, 4, 16) | (high << np.uint8(4))).astype(np.float32)


def dequantize_q5_0(blocks: U8Array) -> F32Array:
    """d: half, 32 fifth bits, 32 nibbles; x = d * (q - 16)."""
    return half_at(blocks, 0) * (_with_fifth_bit(blocks[:, 2:6], blocks[:, 6:]) - 16)


def dequantize_q5_1(blocks: U8Array) -> F32Array:
    """d, m: halves, 32 fifth bits, 32 nibbles; x = d * q + m."""
    return half_at(blocks, 0) * _with_fifth_bit(blocks[:, 4:8], blocks[:, 8:]) + half_at(blocks, 2)


def dequantize_q8_0(blocks: U8Array) -> F32Array:
    """d: half, 32 signed bytes; x = d * q."""
    return half_at(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _reciprocal(d: F32Array) -> F32Array:
    """1/d, and 0 where that is infinite: such a d is stored as the half 0, so the block reads as zeros anyway."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / d
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def quantize_q8_0(values: F32Array) -> U8Array:
    """d = max|x| / 127; q = x / d, halves away from zero."""
    d = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    scaled = values * _reciprocal(d)
    magnitude = np.abs(scaled)
    whole = np.floor(magnitude)
    rounded = np.copysign(whole + (magnitude - whole >= 0.5), scaled)
    return np.hstack([half_bytes(d), rounded.astype(np.int8).view(np.uint8)])


def quantize_q4_0(values: F32Array) -> U8Array:
    """d = x_m / -8 for the x_m of the largest magnitude (the first such); q = trunc(x / d + 8.5), at most 15."""
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-8)
    q = np.trunc(values * _reciprocal(d) + np.float32(8.5)).clip(0, 15).astype(np.uint8)
    return np.hstack([half_bytes(d), pack_nibbles(q, 16)])


def _affine(values: F32Array, top: int) -> tuple[U8Array, U8Array]:
    """The bytes of d = (max - min) / top and m = min; q = trunc((x - m) / d + 0.5)."""
    low = values.min(axis=1, keepdims=True)
    d = (values.max(axis=1, keepdims=True) - low) / np.float32(top)
    q = np.trunc((values - low) * _reciprocal(d) + np.float32(0.5)).clip(0, top).astype(np.uint8)
    return np.hstack([half_bytes(d), half_bytes(low)]), q


def _fifth_bits(q: U8Array) -> U8Array:
    return np.packbits(q >> np.uint8(4), axis=1, bitorder="little")


def quantize_q4_1(values: F32Array) -> U8Array:
    """d and m of the largest and the smallest value."""
    head, q = _affine(values, 15)
    return np.hstack([head, pack_nibbles(q, 16)])


def quantize_q5_0(values: F32Array) -> U8Array:
    """As Q4_0, with d = x_m / -16 and q up to 31."""
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-16)
    q = np.trunc(values * _reciprocal(d) + np.float32(16.5)).clip(0, 31).astype(np.uint8)
    return np.hstack([half_bytes(d), _fifth_bits(q), pack_nibbles(q & np.uint8(15), 16)])


def quantize_q5_1(values: F32Array) -> U8Array:
    """d and m of the largest and the smallest value."""
    head, q = _affine(values, 31)
    return np.hstack([head, _fifth_bits(q), pack_nibbles(q & np.uint8(15), 16)])
