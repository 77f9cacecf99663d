"""KV memory of the reference backend: K, V and a position for every slot, in plain numpy arrays.

Knows slots, groups and layers; does not know sequences, pages' owners or the model's other arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from plait.errors import BackendError
from plait.formats.quant.blocks32 import dequantize_q8_0, quantize_q8_0
from plait.ops.api import KV_TYPES, I32Array, KVConfig, KVInputs, KVShape, Rope, kv_row_bytes
from plait.ops.check import check_slots
from plait.ops.reference_math import Array, rotate

KV_DTYPES: Mapping[str, npt.DTypeLike] = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
Stored: TypeAlias = npt.NDArray[Any]


def pack(x: Array, kv_type: str) -> Stored:
    """Rows (..., dim) as they are stored: rounded to nearest even, or the bytes of Q8_0's blocks, (..., row bytes)."""
    if kv_type != "q8_0":
        return x.astype(KV_DTYPES[kv_type])
    with np.errstate(invalid="ignore"):  # a block with a number that is none reads as NaN
        blocks = quantize_q8_0(np.ascontiguousarray(x, np.float32).reshape(-1, KV_TYPES[kv_type][0]))
    return blocks.reshape(*x.shape[:-1], kv_row_bytes(kv_type, x.shape[-1]))


def unpack(stored: Stored, kv_type: str) -> Array:
    """The inverse of `pack`, but for the rounding: float32."""
    if kv_type != "q8_0":
        return stored.astype(np.float32)
    blocks = np.ascontiguousarray(stored).reshape(-1, KV_TYPES[kv_type][1])
    return dequantize_q8_0(blocks).reshape(*stored.shape[:-1], -1)


class ReferenceKV:
    """K and V of every layer, (slots, n_kv_heads, head_dim), as `pack` stores them; positions of every group, (slots,).

    `ropes[layer]` is how that layer rotates its K, None if it does not. Raises BackendError for a KV type that is
    not stored or cannot hold the heads, and ValueError for sizes that do not fit the shape."""

    def __init__(self, shape: KVShape, config: KVConfig, ropes: Mapping[int, Rope | None]) -> None:
        if config.kv_type not in KV_TYPES:
            raise BackendError(f"the reference backend stores K and V as {', '.join(KV_TYPES)}, not {config.kv_type}")
        if len(config.num_pages) != len(shape.groups):
            raise ValueError(f"num_pages has {len(config.num_pages)} numbers for {len(shape.groups)} KV groups")
        self.shape, self.config = shape, config
        self._ropes = ropes
        self._group_of = {layer: g for g, group in enumerate(shape.groups) for layer in group.layers}
        slots = [num_pages * config.page_size for num_pages in config.num_pages]
        self._positions = [np.zeros(n, np.int32) for n in slots]
        self._k, self._v = (
            {
                layer: pack(np.zeros((slots[g], shape.n_kv_heads, dim), np.float32), config.kv_type)
                for layer, g in self._group_of.items()
            }
            for dim in (shape.head_dim, shape.v_head_dim)
        )

    def group_of(self, layer: int) -> int:
        return self._group_of[layer]

    def nbytes(self) -> int:
        arrays: list[npt.NDArray[Any]] = [*self._k.values(), *self._v.values(), *self._positions]
        return sum(array.nbytes for array in arrays)

    def store(self, layer: int, slots: I32Array, k: Array, v: Array, positions: I32Array) -> None:
        """Writes k (W, n_kv_heads, head_dim), v and positions (W,), rounded to the KV type."""
        self._k[layer][slots] = pack(k, self.config.kv_type)
        self._v[layer][slots] = pack(v, self.config.kv_type)
        self._positions[self._group_of[layer]][slots] = positions

    def positions(self, group: int, slots: I32Array) -> I32Array:
        return self._positions[group][slots]

    def gather(self, layer: int, slots: I32Array, dtype: npt.DTypeLike) -> tuple[Array, Array]:
        """K and V of these slots, in `dtype`."""
        kv_type = self.config.kv_type
        k, v = (unpack(stored[layer][slots], kv_type) for stored in (self._k, self._v))
        return k.astype(dtype), v.astype(dtype)

    def edit(self, group: int, inputs: KVInputs) -> None:
        """Does the group's copies in order, then its repositions in order."""
        for copy in inputs.copies:
            source, target = slice(copy.src, copy.src + copy.count), slice(copy.dst, copy.dst + copy.count)
            for array in self._arrays(group):
                array[target] = array[source]
        for change in inputs.repositions:
            self._reposition(group, change.slot, change.position)

    def _reposition(self, group: int, slot: int, position: int) -> None:
        delta = np.array([position - int(self._positions[group][slot])], np.int64)
        self._positions[group][slot] = position
        for layer in self.shape.groups[group].layers:
            rope = self._ropes.get(layer)
            if rope is not None:
                # K carries the rope's scale already, from when it was stored.
                unscaled = Rope(rope.layout, rope.inv_freq)
                k = unpack(self._k[layer][slot : slot + 1], self.config.kv_type)
                self._k[layer][slot] = pack(rotate(k, delta, unscaled)[0], self.config.kv_type)

    def read(self, group: int, slots: I32Array) -> bytes:
        """Positions, then for each layer of the group K and V; each array's slots in the order asked for."""
        self._check(group, slots)
        return b"".join(array[slots].tobytes() for array in self._arrays(group))

    def write(self, group: int, slots: I32Array, data: bytes) -> None:
        """The inverse of `read`. Raises ValueError when `data` is not of these slots' size."""
        self._check(group, slots)
        arrays = self._arrays(group)
        expected = sum(array[:1].nbytes for array in arrays) * len(slots)
        if len(data) != expected:
            raise ValueError(f"{len(data)} bytes for {len(slots)} slots of KV group {group}; expected {expected}")
        offset = 0
        for array in arrays:
            shape = (len(slots), *array.shape[1:])
            count = int(np.prod(shape))
            array[slots] = np.frombuffer(data, array.dtype, count, offset).reshape(shape)
            offset += count * array.dtype.itemsize

    def _arrays(self, group: int) -> list[npt.NDArray[Any]]:
        layers = self.shape.groups[group].layers
        return [self._positions[group], *(array for layer in layers for array in (self._k[layer], self._v[layer]))]

    def _check(self, group: int, slots: I32Array) -> None:
        if not 0 <= group < len(self.shape.groups):
            raise ValueError(f"there is no KV group {group}; there are {len(self.shape.groups)}")
        check_slots(f"group {group}", slots, self.config.page_size, self.config.num_pages[group])
