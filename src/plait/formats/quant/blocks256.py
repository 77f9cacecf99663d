"""The formats with superblocks of 256 values: Q2_K to Q6_K, and the non-linear IQ4_NL (blocks of 32) and IQ4_XS.

Layouts and meaning are those of ggml (ggml-common.h, ggml-quants.c). A superblock has one or two half-precision scales
and small integer scales for each run of 16 or 32 values. Every function takes blocks as bytes (n, block_bytes) and
gives float32 (n, block_values), with one rounding for each product and sum. Knows numpy alone.
"""

from __future__ import annotations

import numpy as np

from plait.formats.quant.bits import F32Array, U8Array, half_at, planes

# The 16 levels of the IQ4 formats (ggml-common.h, kvalues_iq4nl), denser around zero.
IQ4_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def _scaled(q: F32Array, scale: F32Array, minus: F32Array | None = None) -> F32Array:
    """scale[:, j] * q - minus[:, j] over equal runs j of each row."""
    runs = q.reshape(len(q), scale.shape[1], -1) * scale[:, :, None]
    if minus is not None:
        runs = runs - minus[:, :, None]
    return runs.reshape(len(q), -1)


def dequantize_q2_k(blocks: U8Array) -> F32Array:
    """16 bytes (scale, minimum: nibbles), 256 2-bit values, d, dmin: halves; runs of 16, x = d*s*q - dmin*m."""
    scales, q = blocks[:, :16], planes(blocks[:, 16:80], 2, 32)
    d, dmin = half_at(blocks, 80), half_at(blocks, 82)
    return _scaled(
        q.astype(np.float32),
        d * (scales & np.uint8(15)).astype(np.float32),
        dmin * (scales >> np.uint8(4)).astype(np.float32),
    )


def dequantize_q3_k(blocks: U8Array) -> F32Array:
    """256 third bits, 256 2-bit values, 16 6-bit scales, d: half; runs of 16, x = d*(s - 32)*(q - 4)."""
    q = planes(blocks[:, 32:96], 2, 32) | (planes(blocks[:, :32], 1, 32) << np.uint8(2))
    scales = planes(blocks[:, 96:104], 4, 8) | (planes(blocks[:, 104:108], 2, 4) << np.uint8(4))
    return _scaled(q.astype(np.float32) - 4, half_at(blocks, 108) * (scales.astype(np.float32) - 32))


def _scales_and_minima(packed: U8Array) -> tuple[F32Array, F32Array]:
    """Eight 6-bit scales and eight 6-bit minima out of 12 bytes.

    Bytes 0-3 hold scales 0-3 in six bits, bytes 4-7 minima 0-3; their upper two bits complete scales and minima 4-7,
    whose low and high nibbles are bytes 8-11.
    """
    first, second, low = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    six, four, top = np.uint8(0x3F), np.uint8(0x0F), np.uint8(0x30)
    scales = np.hstack([first & six, (low & four) | ((first >> np.uint8(2)) & top)])
    minima = np.hstack([second & six, (low >> np.uint8(4)) | ((second >> np.uint8(2)) & top)])
    return scales.astype(np.float32), minima.astype(np.float32)


def dequantize_q4_k(blocks: U8Array) -> F32Array:
    """d, dmin: halves, scales and minima, 256 nibbles; runs of 32, x = d*s*q - dmin*m."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    q = planes(blocks[:, 16:], 4, 32).astype(np.float32)
    return _scaled(q, half_at(blocks, 0) * scales, half_at(blocks, 2) * minima)


def dequantize_q5_k(blocks: U8Array) -> F32Array:
    """d, dmin: halves, scales and minima, 256 fifth bits, 256 nibbles; runs of 32, x = d*s*q - dmin*m."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    q = planes(blocks[:, 48:], 4, 32) | (planes(blocks[:, 16:48], 1, 32) << np.uint8(4))
    return _scaled(q.astype(np.float32), half_at(blocks, 0) * scales, half_at(blocks, 2) * minima)


def dequantize_q6_k(blocks: U8Array) -> F32Array:
    """256 low nibbles, 256 upper bit pairs, 16 signed scales, d: half; runs of 16, x = d*s*(q - 32)."""
    q = planes(blocks[:, :128], 4, 64) | (planes(blocks[:, 128:192], 2, 32) << np.uint8(4))
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
    return _scaled(q.astype(np.float32) - 32, half_at(blocks, 208) * scales)


def dequantize_iq4_nl(blocks: U8Array) -> F32Array:
    """d: half, 32 nibbles (low halves first); x = d * level[q]."""
    return half_at(blocks, 0) * IQ4_LEVELS[planes(blocks[:, 2:], 4, 16)]


def dequantize_iq4_xs(blocks: U8Array) -> F32Array:
    """d: half, upper bit pairs and lower nibbles of 8 scales, 256 nibbles; runs of 32, x = d*(s - 32)*level[q]."""
    scales = planes(blocks[:, 4:8], 4, 1) | (planes(blocks[:, 2:4], 2, 1) << np.uint8(4))
    q = planes(blocks[:, 8:], 4, 16)
    return _scaled(IQ4_LEVELS[q], half_at(blocks, 0) * (scales.astype(np.float32) - 32))
