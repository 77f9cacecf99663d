"""Whole arrays of blocks: dequantise and quantise rows, in pieces that fit a cache. Knows numpy and the table."""

from __future__ import annotations

import numpy as np

from plait.formats.quant.bits import F32Array, U8Array
from plait.formats.quant.table import block_format

_PIECE_VALUES = 1 << 18  # temporaries of some MB instead of several times the tensor


def dequantize(rows: U8Array, name: str) -> F32Array:
    """Bytes (rows, bytes per row) of format `name` to a fresh float32 array (rows, values per row)."""
    fmt = block_format(name)
    blocks = np.ascontiguousarray(rows).reshape(-1, fmt.block_bytes)
    out = np.empty((len(blocks), fmt.block_values), np.float32)
    piece = _PIECE_VALUES // fmt.block_values
    # A damaged scale may be infinite or NaN: the values say so, and the model refuses them by name later.
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(blocks), piece):
            out[start : start + piece] = fmt.dequantize(blocks[start : start + piece])
    return out.reshape(len(rows), rows.shape[1] // fmt.block_bytes * fmt.block_values)


def quantize(values: F32Array, name: str) -> U8Array:
    """Float32 (..., n) to bytes (..., bytes per row) of format `name`.

    The same bits as ggml's reference quantiser; for the K formats and IQ4_NL, whose scales are searched, the same
    search, where sums in another order may choose a neighbouring scale.

    Raises `ValueError` for a format without a quantiser, a row that is not a multiple of the block, or a value that is
    not finite in a format with shared scales.
    """
    fmt = block_format(name)
    if fmt.quantize is None:
        raise ValueError(f"Plait does not quantise to {name}")
    width = values.shape[-1]
    if width % fmt.block_values:
        raise ValueError(f"rows of {width} values are not a multiple of {name}'s block of {fmt.block_values}")
    if fmt.block_values > 1 and not np.isfinite(values).all():
        raise ValueError(f"values that are not finite cannot be quantised to {name}")
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, fmt.block_values)
    out = np.empty((len(blocks), fmt.block_bytes), np.uint8)
    piece = _PIECE_VALUES // fmt.block_values
    for start in range(0, len(blocks), piece):
        out[start : start + piece] = fmt.quantize(blocks[start : start + piece])
    return out.reshape(*values.shape[:-1], fmt.row_bytes(width))
