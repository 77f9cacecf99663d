"""Quantisers to superblocks of 256 values, Q4_K, Q5_K and Q6_K, and to IQ4_NL.

Layouts: `blocks256`. The scale of each run is searched (`search`), rounded to its few bits, and the values are then
rounded with the scales as they are stored, as ggml's reference quantisers do. Every function takes float32 (n, values
of a block) and gives bytes (n, block_bytes). Knows numpy alone.
"""

from __future__ import annotations

import numpy as np

from plait.formats.quant.bits import F32Array, U8Array, half_at, half_bytes, pack_nibbles
from plait.formats.quant.blocks256 import IQ4_LEVELS
from plait.formats.quant.search import level_scale, nearest_level, reciprocal, scale_and_minimum, signed_scale


def pack_planes(values: U8Array, bits: int, group: int) -> U8Array:
    """The inverse of `bits.planes`: (n, m) values of `bits` bits to (n, m * bits / 8) bytes."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields = values.reshape(len(values), -1, 8 // bits, group) << shifts
    packed: U8Array = np.bitwise_or.reduce(fields, axis=2)
    return packed.reshape(len(values), -1)


def _six_bits(values: F32Array) -> tuple[U8Array, U8Array]:
    """Eight values >= 0 of each row as 6-bit multiples of a half, and the bytes of that half."""
    largest = values.max(axis=1, keepdims=True)
    q = np.rint(values * (np.float32(63) * reciprocal(largest))).clip(0, 63).astype(np.uint8)
    return q, half_bytes(largest / np.float32(63))


def _pack_scales_and_minima(scales: U8Array, minima: U8Array) -> U8Array:
    """Twelve bytes, as `blocks256` reads them."""
    four, six = np.uint8(4), np.uint8(6)
    low = (scales[:, 4:] & np.uint8(15)) | ((minima[:, 4:] & np.uint8(15)) << four)
    first = scales[:, :4] | ((scales[:, 4:] >> four) << six)
    second = minima[:, :4] | ((minima[:, 4:] >> four) << six)
    return np.hstack([first, second, low])


def _with_minima(values: F32Array, top: int, first: float, steps: int) -> tuple[U8Array, U8Array]:
    """The 16 bytes of scales and the 256 values from 0 to `top` of each superblock."""
    scale, minimum = scale_and_minimum(values.reshape(-1, 32), top, first, steps)
    scales, d = _six_bits(scale.reshape(-1, 8))
    minima, dmin = _six_bits(minimum.reshape(-1, 8))
    head = np.hstack([d, dmin, _pack_scales_and_minima(scales, minima)])
    s, m = (half_at(head, 0) * scales)[:, :, None], (half_at(head, 2) * minima)[:, :, None]
    q = np.rint((values.reshape(-1, 8, 32) + m) * reciprocal(s)).clip(0, top)
    return head, q.astype(np.uint8).reshape(len(values), -1)


def quantize_q4_k(values: F32Array) -> U8Array:
    """Runs of 32 with a 6-bit scale and minimum; 21 guesses for each."""
    head, q = _with_minima(values, 15, -1.0, 20)
    return np.hstack([head, pack_nibbles(q, 32)])


def quantize_q5_k(values: F32Array) -> U8Array:
    """Runs of 32 with a 6-bit scale and minimum; 16 guesses for each."""
    head, q = _with_minima(values, 31, -0.5, 15)
    return np.hstack([head, pack_planes(q >> np.uint8(4), 1, 32), pack_nibbles(q & np.uint8(15), 32)])


def quantize_q6_k(values: F32Array) -> U8Array:
    """Runs of 16 with an 8-bit scale; the scale of the largest magnitude becomes -128."""
    scale = signed_scale(values.reshape(-1, 16), 32).reshape(-1, 16)
    largest = np.take_along_axis(scale, np.abs(scale).argmax(axis=1, keepdims=True), axis=1)
    scales = np.rint(scale * (np.float32(-128) * reciprocal(largest))).clip(-128, 127)
    d = half_bytes(largest / np.float32(-128))
    stored = (half_at(d, 0) * scales)[:, :, None]
    q = np.rint(values.reshape(-1, 16, 16) * reciprocal(stored)).clip(-32, 31) + np.float32(32)
    q = q.astype(np.uint8).reshape(len(values), -1)
    low, high = pack_nibbles(q & np.uint8(15), 64), pack_planes(q >> np.uint8(4), 2, 32)
    return np.hstack([low, high, scales.astype(np.int8).view(np.uint8), d])


def quantize_iq4_nl(values: F32Array) -> U8Array:
    """One scale for 32 values; 16 guesses."""
    d = half_bytes(level_scale(values, IQ4_LEVELS, 7)[:, None])
    q = nearest_level(values * reciprocal(half_at(d, 0)), IQ4_LEVELS).astype(np.uint8)
    return np.hstack([d, pack_nibbles(q, 16)])
