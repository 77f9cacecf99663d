"""What a dense decoder is: the numbers that fix its shape and arithmetic, whichever container they came from.

A `DecoderConfig` made by `plait.models.gguf_config` or `plait.models.hf_config` is consistent: it was checked there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plait.errors import ModelFileError
from plait.ops.api import Activation, KVGroup, KVShape, Rope

# Far above every model there is: a number beyond these is a damaged file, refused before anything is allocated.
MAX_LAYERS = 10_000
MAX_HEADS = 1 << 16
MAX_WIDTH = 1 << 24
MAX_CONTEXT = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Widths count values, `context_length` and `window` tokens. `window` is the number of last positions a row attends
    to, its own included; None is all of them. `qkv_bias`, `out_bias` and `mlp_bias` say which matrices have one."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    v_head_dim: int
    ff: int
    vocab: int
    eps: float
    rope: Rope
    context_length: int
    attention_scale: float
    window: int | None = None
    tied: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    activation: Activation = Activation.SILU

    def kv_shape(self) -> KVShape:
        """All layers in one group. A window as long as the context hides nothing, and is left out."""
        window = self.window if self.window is not None and self.window < self.context_length else None
        group = KVGroup(tuple(range(self.n_layers)), window)
        return KVShape(self.n_kv_heads, self.head_dim, self.v_head_dim, (group,))


def checked(config: DecoderConfig, path: Path) -> DecoderConfig:
    """`config`, or ModelFileError for numbers that contradict each other."""
    if config.n_heads % config.n_kv_heads:
        raise ModelFileError(
            path, f"{config.n_heads} attention heads cannot be shared out over {config.n_kv_heads} key/value heads"
        )
    if 2 * len(config.rope.inv_freq) > config.head_dim:
        raise ModelFileError(
            path, f"{2 * len(config.rope.inv_freq)} elements of each head are rotated, but it has {config.head_dim}"
        )
    return config


def head_dim_of(d_model: int, n_heads: int, path: Path) -> int:
    """The width of a head where the file does not say it."""
    if d_model % n_heads:
        raise ModelFileError(path, f"a width of {d_model} cannot be shared out over {n_heads} attention heads")
    return d_model // n_heads
