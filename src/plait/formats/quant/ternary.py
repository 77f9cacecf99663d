"""TQ1_0, TQ2_0 (three values) and MXFP4 (4-bit floats).

Layouts and meaning are those of ggml (ggml-common.h, ggml-quants.c); MXFP4's are the Open Compute Project's
microscaling formats, E2M1 with a shared E8M0. Every function takes blocks as bytes (n, block_bytes) and gives float32
(n, block_values). Knows numpy alone.
"""

from __future__ import annotations

import numpy as np

from plait.formats.quant.bits import F32Array, U8Array, half_at, planes

# The values of E2M1, doubled (ggml-common.h, kvalues_mxfp4).
MXFP4_LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def _trits(data: U8Array, count: int, group: int) -> U8Array:
    """`count` base-3 digits of each byte, a fraction of 256: the first of every byte of a group, then the second ..."""
    powers = 3 ** np.arange(count, dtype=np.uint8)[:, None]
    moved = data.reshape(len(data), -1, 1, group) * powers.astype(np.uint8)
    return (moved.astype(np.uint16) * 3 >> 8).astype(np.uint8).reshape(len(data), -1)


def trits_tq1_0(blocks: U8Array) -> U8Array:
    """256 numbers from 0 to 2."""
    return np.hstack([_trits(blocks[:, :32], 5, 32), _trits(blocks[:, 32:48], 5, 16), _trits(blocks[:, 48:52], 4, 4)])


def dequantize_tq1_0(blocks: U8Array) -> F32Array:
    """48 bytes of five digits, 4 of four, d: half; x = d * (q - 1)."""
    return half_at(blocks, 52) * (trits_tq1_0(blocks).astype(np.float32) - 1)


def dequantize_tq2_0(blocks: U8Array) -> F32Array:
    """256 2-bit values, d: half; x = d * (q - 1)."""
    return half_at(blocks, 64) * (planes(blocks[:, :64], 2, 32).astype(np.float32) - 1)


def e8m0_halves(exponents: U8Array) -> F32Array:
    """2^(e - 128): half of what E8M0 says, since the levels are doubled. All are float32, the first two subnormal."""
    bits = exponents.astype(np.uint32)
    return np.where(bits < 2, np.uint32(0x00200000) << bits, (bits - np.uint32(1)) << np.uint32(23)).view(np.float32)


def dequantize_mxfp4(blocks: U8Array) -> F32Array:
    """e: E8M0, 32 nibbles (low halves first); x = 2^(e - 128) * level[q]."""
    return e8m0_halves(blocks[:, :1]) * MXFP4_LEVELS[planes(blocks[:, 1:], 4, 16)]
