"""GGUF metadata to `DecoderConfig`: what all families share, and llama. The others: `gguf_families`, `gguf_older`. Key
names: the GGUF specification, docs/gguf.md in ggml, and gguf-py's constants.

Knows keys and which tensors a file has; reads no weights but the tables of rotary divisors.
"""

from __future__ import annotations

import math
from typing import Any

from plait.errors import UnsupportedModelError
from plait.formats.tensor import ModelSource
from plait.models.config import (
    MAX_CONTEXT,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_WIDTH,
    DecoderConfig,
    Norm,
    NormPlace,
    checked,
    head_dim_of,
)
from plait.models.gguf_rope import read_ropes
from plait.models.keys import Keys
from plait.ops.api import RopeLayout


def gguf_keys(source: ModelSource) -> Keys:
    """The architecture's keys. Raises UnsupportedModelError for a mixture of experts."""
    name = Keys(source.path, source.metadata).string("general.architecture")
    keys = Keys(source.path, source.metadata, f"{name}.")
    if keys.integer("expert_count", 0, MAX_WIDTH, default=0) > 0:
        raise UnsupportedModelError(source.path, f"this {name} is a mixture of experts; Plait runs dense ones only")
    return keys


def read_decoder(keys: Keys, source: ModelSource, layout: RopeLayout | None, **changes: Any) -> DecoderConfig:
    """The config that the common keys give, with `changes` to its fields. `layout` None: the family does not rotate.
    Which weights have a bias is seen by the first layer's tensors."""
    found = {**_sizes(keys, source), **_biases(source, changes), **changes}
    rms = found.get("norm", Norm.RMS) is Norm.RMS
    if "eps" not in found:
        found["eps"] = keys.number(f"attention.layer_norm_{'rms_' if rms else ''}epsilon", 0, 1)
    if layout is not None and "rope" not in found:
        found |= read_ropes(keys, source, layout, found["head_dim"], found["context_length"])
    return checked(DecoderConfig(**{"rope": None, **found}), source.path)


def _sizes(keys: Keys, source: ModelSource) -> dict[str, Any]:
    d_model = keys.integer("embedding_length", 1, MAX_WIDTH)
    n_heads = keys.uniform_integer("attention.head_count", 1, MAX_HEADS)
    head_dim = _head_dim(keys, "attention.key_length", d_model, n_heads)
    return {
        "n_layers": keys.integer("block_count", 1, MAX_LAYERS),
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": keys.uniform_integer("attention.head_count_kv", 1, MAX_HEADS, default=n_heads),
        "head_dim": head_dim,
        "v_head_dim": _head_dim(keys, "attention.value_length", d_model, n_heads),
        "ff": keys.uniform_integer("feed_forward_length", 1, MAX_WIDTH),
        "vocab": _vocab(keys, source),
        "context_length": keys.integer("context_length", 1, MAX_CONTEXT),
        "attention_scale": keys.number("attention.scale", 0, 1e6, default=0) or 1 / math.sqrt(head_dim),
    }


def _biases(source: ModelSource, changes: dict[str, Any]) -> dict[str, bool]:
    def there(*names: str) -> bool:
        return any(f"{name}.bias" in source.tensors for name in names)

    first_norm = "blk.0.post_attention_norm" if changes.get("norm_place") is NormPlace.POST else "blk.0.attn_norm"
    return {
        "tied": "output.weight" not in source.tensors,
        "qkv_bias": there("blk.0.attn_q", "blk.0.attn_qkv"),
        "out_bias": there("blk.0.attn_output"),
        "mlp_bias": there("blk.0.ffn_up", "blk.0.ffn_gate"),
        "norm_bias": there(first_norm),
        "output_bias": there("output"),
    }


def _head_dim(keys: Keys, key: str, d_model: int, n_heads: int) -> int:
    default = None if keys.has(key) else head_dim_of(d_model, n_heads, keys.path)
    return keys.integer(key, 1, MAX_HEADS, default)


def _vocab(keys: Keys, source: ModelSource) -> int:
    """The key where there is one (older files have none), else the rows of the embedding table."""
    table = source.tensors.get("token_embd.weight")
    rows = table.shape[0] if table is not None and len(table.shape) == 2 else None
    return keys.integer("vocab_size", 1, MAX_WIDTH, default=rows)


def window(keys: Keys, default: int | None = None) -> int | None:
    """The sliding window; 0 says that there is none."""
    return keys.integer("attention.sliding_window", 0, MAX_CONTEXT, default=default or 0) or None


def sliding_layers(keys: Keys, pattern: int) -> tuple[bool, ...]:
    """Which layers have the window: what the key says (one flag for each, or a period), else all but every
    `pattern`-th."""
    key, n_layers = "attention.sliding_window_pattern", keys.integer("block_count", 1, MAX_LAYERS)
    listed: Any = keys.metadata.get(keys.prefix + key)
    if listed is not None and not isinstance(listed, str) and hasattr(listed, "__len__"):
        flags = tuple(bool(flag) for flag in listed)
        if len(flags) != n_layers:
            raise keys.error(key, f"has {len(flags)} flags for {n_layers} layers")
        return flags
    every = keys.integer(key, 1, MAX_LAYERS, default=pattern)
    return tuple((layer + 1) % every != 0 for layer in range(n_layers))


def llama_from_gguf(source: ModelSource) -> DecoderConfig:
    """Raises ModelFileError for keys that are missing, out of range or contradict each other, and
    UnsupportedModelError for what the architecture may hold and Plait does not run."""
    keys = gguf_keys(source)
    return read_decoder(keys, source, RopeLayout.INTERLEAVED, window=window(keys))
