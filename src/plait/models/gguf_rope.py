"""Rotary embeddings out of GGUF metadata and its tables of divisors. Key names: gguf-py's constants, llama.cpp.

Knows keys and reads the small tensors with divisors; knows no architecture.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from plait.errors import ModelFileError, UnsupportedModelError
from plait.formats.check import require_tensor
from plait.formats.tensor import ModelSource
from plait.models.config import MAX_CONTEXT, MAX_HEADS
from plait.models.keys import Keys
from plait.models.rope import default_inv_freq, divided_inv_freq, linear_inv_freq, yarn_inv_freq, yarn_scale
from plait.ops.api import Rope, RopeLayout

ROPE_DIVISORS = "rope_freqs.weight"
LONG_DIVISORS, SHORT_DIVISORS = "rope_factors_long.weight", "rope_factors_short.weight"


def read_ropes(
    keys: Keys, source: ModelSource, layout: RopeLayout, head_dim: int, context_length: int
) -> dict[str, Any]:
    """The config's fields `rope`, `short_rope` and `short_context`."""
    dim = keys.integer("rope.dimension_count", 0, MAX_HEADS, default=head_dim)
    if dim % 2:
        raise keys.error("rope.dimension_count", f"is {dim}; elements are rotated in pairs")
    theta = keys.number("rope.freq_base", 1e-6, 1e15, default=10000.0)
    inv_freq = default_inv_freq(theta, dim)
    if LONG_DIVISORS in source.tensors:
        return _longrope(keys, source, layout, inv_freq, context_length)
    if ROPE_DIVISORS in source.tensors:
        inv_freq = divided_inv_freq(inv_freq, _divisors(source, ROPE_DIVISORS, dim // 2))
    if keys.string("rope.scaling.type", default="") == "yarn":
        return {"rope": _yarn(keys, layout, theta, dim, context_length)}
    return {"rope": Rope(layout, linear_inv_freq(inv_freq, _linear_factor(keys)))}


def local_rope(keys: Keys, layout: RopeLayout, head_dim: int, default_base: float) -> Rope:
    """That of the layers with a window, which scale nothing."""
    dim = keys.integer("rope.dimension_count", 0, MAX_HEADS, default=head_dim)
    return Rope(layout, default_inv_freq(keys.number("rope.freq_base_swa", 1e-6, 1e15, default=default_base), dim))


def _linear_factor(keys: Keys) -> float:
    # Files older than rope.scaling.* have linear scaling under rope.scale_linear.
    old = keys.number("rope.scale_linear", 1e-6, 1e6, default=1.0)
    kind = keys.string("rope.scaling.type", default="linear" if keys.has("rope.scaling.factor") else "none")
    if kind in ("none", "longrope"):
        return old
    if kind != "linear":
        raise UnsupportedModelError(
            keys.path,
            f"{keys.name('rope.scaling.type')} is '{kind}'; Plait knows none, linear, yarn, longrope and llama3's",
        )
    return keys.number("rope.scaling.factor", 1e-6, 1e6, default=old)


def _yarn(keys: Keys, layout: RopeLayout, theta: float, dim: int, context_length: int) -> Rope:
    factor = keys.number("rope.scaling.factor", 1e-6, 1e6, default=1.0)
    original = keys.integer("rope.scaling.original_context_length", 1, MAX_CONTEXT, default=context_length)
    fast = keys.number("rope.scaling.yarn_beta_fast", 1e-3, 1e6, default=32.0)
    slow = keys.number("rope.scaling.yarn_beta_slow", 1e-3, 1e6, default=1.0)
    # Converters write what multiplies the formula's own scale.
    scale = keys.number("rope.scaling.attn_factor", 1e-6, 1e6, default=1.0)
    scale *= keys.number("rope.scaling.yarn_attn_factor", 1e-6, 1e6, default=1.0)
    return Rope(layout, yarn_inv_freq(theta, dim, factor, original, fast, slow), scale * yarn_scale(factor))


def _longrope(
    keys: Keys, source: ModelSource, layout: RopeLayout, plain: tuple[float, ...], context_length: int
) -> dict[str, Any]:
    scale = keys.number("rope.scaling.attn_factor", 1e-6, 1e6, default=1.0)
    long, short = (
        Rope(layout, divided_inv_freq(plain, _divisors(source, name, len(plain))), scale)
        for name in (LONG_DIVISORS, SHORT_DIVISORS)
    )
    original = keys.integer("rope.scaling.original_context_length", 1, MAX_CONTEXT, default=context_length)
    return {"rope": long, "short_rope": short, "short_context": original}


def _divisors(source: ModelSource, name: str, n: int) -> tuple[float, ...]:
    values = require_tensor(source, name, (n,)).numpy()
    if not np.all(np.isfinite(values) & (values > 0)):
        raise ModelFileError(source.path, "holds a divisor that is not a positive number", name)
    return tuple(values.astype(np.float64).tolist())
