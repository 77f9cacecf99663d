"""What a dense decoder is: the numbers that fix its shape and arithmetic, whichever container they came from.

A `DecoderConfig` made by the readers of this package is consistent: it was checked there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from plait.errors import ModelFileError
from plait.ops.api import Activation, KVGroup, KVShape, Rope

# Far above every model there is: a number beyond these is a damaged file, refused before anything is allocated.
MAX_LAYERS = 10_000
MAX_HEADS = 1 << 16
MAX_WIDTH = 1 << 24
MAX_CONTEXT = (1 << 31) - 1


class Norm(StrEnum):
    RMS = "rms"
    LAYER = "layer"


class NormPlace(StrEnum):
    """Where a layer norms: what attention and MLP read, what they give to the residual stream, or both."""

    PRE = "pre"
    POST = "post"
    BOTH = "both"


class QkNorm(StrEnum):
    """What of q and k is normed by itself."""

    NONE = "none"
    HEAD = "head"  # each head, with one weight for all
    EACH_HEAD = "each_head"  # each head, with its own weight
    ROW = "row"  # all heads together


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Widths count values, `context_length` and `window` tokens. `window` is the number of last positions a row attends
    to, its own included; None is all of them. `qkv_bias`, `out_bias`, `mlp_bias`, `norm_bias`, `qk_norm_bias` and
    `output_bias` say which weights have one; without `norm_weight` norms have neither.

    `windows` and `ropes`, where they are given, are each layer's own and stand for `window` and `rope`. `parallel`:
    attention and MLP both read the residual stream as it enters the layer, with `shared_norm` through one norm.
    `slopes` are ALiBi's, one for each head. `positions` counts the rows of a table of learned positions, 0 if there is
    none. `short_rope` is for engines whose sequences are at most `short_context` long (longrope)."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    v_head_dim: int
    ff: int
    vocab: int
    eps: float
    rope: Rope | None
    context_length: int
    attention_scale: float
    window: int | None = None
    tied: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    activation: Activation = Activation.SILU
    gated: bool = True
    norm: Norm = Norm.RMS
    norm_place: NormPlace = NormPlace.PRE
    norm_offset: float = 0.0
    norm_weight: bool = True
    norm_bias: bool = False
    qk_norm: QkNorm = QkNorm.NONE
    qk_norm_bias: bool = False
    parallel: bool = False
    shared_norm: bool = False
    windows: tuple[int | None, ...] = ()
    ropes: tuple[Rope | None, ...] = ()
    short_rope: Rope | None = None
    short_context: int = 0
    slopes: tuple[float, ...] | None = None
    positions: int = 0
    clip_qkv: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    output_bias: bool = False

    def rope_of(self, layer: int) -> Rope | None:
        return self.ropes[layer] if self.ropes else self.rope

    def window_of(self, layer: int) -> int | None:
        """A window as long as the context hides nothing, and is left out."""
        window = self.windows[layer] if self.windows else self.window
        return window if window is not None and window < self.context_length else None

    def kv_shape(self) -> KVShape:
        """One group for each length of window, those of all tokens first."""
        layers: dict[int | None, list[int]] = {}
        for layer in range(self.n_layers):
            layers.setdefault(self.window_of(layer), []).append(layer)
        order = sorted(layers, key=lambda window: (window is not None, window or 0))
        groups = tuple(KVGroup(tuple(layers[window]), window) for window in order)
        return KVShape(self.n_kv_heads, self.head_dim, self.v_head_dim, groups)

    def for_context(self, n_ctx: int) -> DecoderConfig:
        """The same model for sequences of up to `n_ctx` tokens (0: as many as it was made for)."""
        longest = n_ctx or self.context_length
        return replace(self, rope=self.short_rope) if self.short_rope and longest <= self.short_context else self


def checked(config: DecoderConfig, path: Path) -> DecoderConfig:
    """`config`, or ModelFileError for numbers that contradict each other."""
    if config.n_heads % config.n_kv_heads:
        raise ModelFileError(
            path, f"{config.n_heads} attention heads cannot be shared out over {config.n_kv_heads} key/value heads"
        )
    for rope in {config.rope, config.short_rope, *config.ropes} - {None}:
        assert rope is not None
        if 2 * len(rope.inv_freq) > config.head_dim:
            raise ModelFileError(
                path, f"{2 * len(rope.inv_freq)} elements of each head are rotated, but it has {config.head_dim}"
            )
    for what, of_layers in (("windows", config.windows), ("rotary embeddings", config.ropes)):
        if of_layers and len(of_layers) != config.n_layers:
            raise ModelFileError(path, f"{len(of_layers)} layers have {what}, but there are {config.n_layers}")
    return config


def head_dim_of(d_model: int, n_heads: int, path: Path) -> int:
    """The width of a head where the file does not say it."""
    if d_model % n_heads:
        raise ModelFileError(path, f"a width of {d_model} cannot be shared out over {n_heads} attention heads")
    return d_model // n_heads
