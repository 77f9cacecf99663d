"""F32, F16 and BF16: a block is one value. Byte layouts are little-endian. Knows numpy alone."""

from __future__ import annotations

import numpy as np

from plait.formats.quant.bits import F32Array, U8Array


def dequantize_f32(blocks: U8Array) -> F32Array:
    return blocks.view("<f4")


def dequantize_f16(blocks: U8Array) -> F32Array:
    return blocks.view("<f2").astype(np.float32)


def dequantize_bf16(blocks: U8Array) -> F32Array:
    """A bfloat16 is the upper half of the float32 of the same value."""
    return (blocks.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def quantize_f32(values: F32Array) -> U8Array:
    return np.ascontiguousarray(values, "<f4").view(np.uint8)


def quantize_f16(values: F32Array) -> U8Array:
    """Rounds to nearest even; beyond 65504 becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype("<f2").view(np.uint8)


def quantize_bf16(values: F32Array) -> U8Array:
    """Rounds to nearest even: adds just under half of the last kept bit, and that bit's parity. NaNs are kept quiet."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    kept = np.where(np.isnan(values), (bits >> np.uint64(16)) | np.uint64(0x40), rounded)
    return kept.astype("<u2").view(np.uint8)
