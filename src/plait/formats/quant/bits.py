"""Taking packed fields out of blocks: half-precision scales, nibbles, bit planes. Knows numpy alone."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

F32Array: TypeAlias = npt.NDArray[np.float32]
U8Array: TypeAlias = npt.NDArray[np.uint8]


def half_at(blocks: U8Array, at: int) -> F32Array:
    """The IEEE half at byte `at` of each block, as float32 (n, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def half_bytes(values: F32Array) -> U8Array:
    """(n, 1) float32 rounded to halves, as bytes (n, 2). Too large becomes infinite, as in C."""
    with np.errstate(over="ignore"):
        return values.astype("<f2").view(np.uint8)


def planes(data: U8Array, bits: int, group: int) -> U8Array:
    """Unpack fields of `bits` bits: (n, m) bytes to (n, m * 8 / bits) values.

    Within each run of `group` bytes the lowest field of every byte comes first, then the next field of every byte.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields = (data.reshape(len(data), -1, 1, group) >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(len(data), -1)


def pack_nibbles(values: U8Array, group: int) -> U8Array:
    """The inverse of `planes(data, 4, group)`."""
    pairs = values.reshape(len(values), -1, 2, group)
    packed: U8Array = pairs[:, :, 0] | (pairs[:, :, 1] << np.uint8(4))
    return packed.reshape(len(values), -1)
