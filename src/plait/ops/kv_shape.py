"""The KV memory of a program: what a token stores, how layers group, how large it is. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

from plait.errors import BackendError


@dataclass(frozen=True, slots=True)
class KVGroup:
    """Layers that keep the same tokens: all of them (`window` None) or the last `window`."""

    layers: tuple[int, ...]
    window: int | None = None


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token stores in every layer (all layers alike), and how the layers group."""

    n_kv_heads: int
    head_dim: int
    v_head_dim: int
    groups: tuple[KVGroup, ...]

    @property
    def n_layers(self) -> int:
        return sum(len(group.layers) for group in self.groups)

    def layer_bytes(self, kv_type: str) -> int:
        """Bytes of K and V of one token in one layer. Raises BackendError for heads that the type cannot hold."""
        return self.n_kv_heads * (kv_row_bytes(kv_type, self.head_dim) + kv_row_bytes(kv_type, self.v_head_dim))


KV_TYPES = {"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34)}
"""For each KV type how many numbers of a head lie together, and in how many bytes. q8_0 is GGUF's block format."""


def kv_row_bytes(kv_type: str, dim: int) -> int:
    """Bytes of one head's K or V of one token. Raises BackendError for a `dim` that is not a multiple of the block."""
    values, size = KV_TYPES[kv_type]
    if dim % values:
        raise BackendError(
            f"{kv_type} keeps K and V in blocks of {values} numbers; a head has {dim}, no multiple of it"
        )
    return dim // values * size


@dataclass(frozen=True, slots=True)
class KVConfig:
    """Size of the paged KV memory. `num_pages[g]` counts group g's pages, page 0 (reserved, never handed out) too.
    Slot s of a group is token s % page_size of page s // page_size."""

    page_size: int
    num_pages: tuple[int, ...]
    kv_type: str = "f16"
