"""KV memory of the torch backend: K, V and a position for every slot, as tensors on the device.

Knows slots, groups and layers; does not know sequences or the model's other arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch

from plait.errors import BackendError
from plait.ops.api import I32Array, KVConfig, KVInputs, KVShape, Rope
from plait.ops.check import check_slots
from plait.ops.cuda.formulas import rope_table, rotate

Tensor: TypeAlias = torch.Tensor

TORCH_DTYPES: Mapping[str, torch.dtype] = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class DeviceKV:
    """For each group K and V of all its layers, (layers, slots, kv_heads, dim), in the KV type, and positions (slots,).

    `ropes[layer]` is how that layer rotates its K, None if it does not. Raises BackendError for a KV type that this
    backend does not store."""

    def __init__(
        self, shape: KVShape, config: KVConfig, ropes: Mapping[int, Rope | None], device: torch.device
    ) -> None:
        if config.kv_type not in TORCH_DTYPES:
            raise BackendError(f"the torch backend stores K and V as {', '.join(TORCH_DTYPES)}, not {config.kv_type}")
        self.shape, self.config, self.device = shape, config, device
        self._ropes = ropes
        self._place = {layer: (g, i) for g, group in enumerate(shape.groups) for i, layer in enumerate(group.layers)}
        slots = [num_pages * config.page_size for num_pages in config.num_pages]
        dtype = TORCH_DTYPES[config.kv_type]
        self.positions = [torch.zeros(n, dtype=torch.int32, device=device) for n in slots]
        self._k, self._v = (
            [
                torch.zeros((len(group.layers), n, shape.n_kv_heads, dim), dtype=dtype, device=device)
                for group, n in zip(shape.groups, slots, strict=True)
            ]
            for dim in (shape.head_dim, shape.v_head_dim)
        )

    def group_of(self, layer: int) -> int:
        return self._place[layer][0]

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """K and V of one layer, (slots, kv_heads, dim): views, to read and to write."""
        group, index = self._place[layer]
        return self._k[group][index], self._v[group][index]

    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self._k, *self._v, *self.positions))

    def edit(self, group: int, inputs: KVInputs) -> None:
        """Does the group's copies in order, then its repositions."""
        for copy in inputs.copies:
            source, target = slice(copy.src, copy.src + copy.count), slice(copy.dst, copy.dst + copy.count)
            self.positions[group][target] = self.positions[group][source]
            for array in (self._k[group], self._v[group]):
                array[:, target] = array[:, source]
        # A slot that is moved twice ends at its last position; rotations add up.
        moves = {move.slot: move.position for move in inputs.repositions}
        if moves:
            self._reposition(group, torch.tensor(list(moves)), torch.tensor(list(moves.values())))

    def _reposition(self, group: int, slots: Tensor, positions: Tensor) -> None:
        slots, positions = slots.to(self.device), positions.to(self.device)
        delta = positions - self.positions[group][slots]
        self.positions[group][slots] = positions.int()
        for index, layer in enumerate(self.shape.groups[group].layers):
            rope = self._ropes.get(layer)
            if rope is not None:
                # K carries the rope's scale already, from when it was stored.
                inv_freq = torch.tensor(rope.inv_freq, dtype=torch.float64, device=self.device)
                k = self._k[group][index]
                k[slots] = rotate(k[slots], rope_table(delta, inv_freq, 1.0), rope.layout)

    def read(self, group: int, slots: I32Array) -> bytes:
        """Positions (int32), then for each layer of the group K and V; each array's slots in the order asked for."""
        index = self._index(group, slots)
        arrays = [self.positions[group][index].int(), *(array[index] for array in self._arrays(group))]
        return b"".join(array.contiguous().view(torch.uint8).cpu().numpy().tobytes() for array in arrays)

    def write(self, group: int, slots: I32Array, data: bytes) -> None:
        """The inverse of `read`. Raises ValueError when `data` is not of these slots' size."""
        index = self._index(group, slots)
        arrays = self._arrays(group)
        sizes = [4 * len(slots), *(array[:1].numel() * array.element_size() * len(slots) for array in arrays)]
        if len(data) != sum(sizes):
            raise ValueError(f"{len(data)} bytes for {len(slots)} slots of KV group {group}; expected {sum(sizes)}")
        if len(slots) == 0:
            return
        first, *parts = torch.split(torch.from_numpy(np.frombuffer(data, np.uint8).copy()), sizes)
        self.positions[group][index] = first.view(torch.int32).to(self.device)
        for array, part in zip(arrays, parts, strict=True):
            array[index] = part.view(array.dtype).view(len(slots), *array.shape[1:]).to(self.device)

    def _arrays(self, group: int) -> list[Tensor]:
        return [array for layer in self.shape.groups[group].layers for array in self.layer(layer)]

    def _index(self, group: int, slots: I32Array) -> Tensor:
        if not 0 <= group < len(self.shape.groups):
            raise ValueError(f"there is no KV group {group}; there are {len(self.shape.groups)}")
        check_slots(f"group {group}", slots, self.config.page_size, self.config.num_pages[group])
        return torch.from_numpy(slots.astype(np.int64)).to(self.device)
