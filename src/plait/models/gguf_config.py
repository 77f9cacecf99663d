"""GGUF metadata to `DecoderConfig`, for llama and its kin. Key names: the GGUF specification, docs/gguf.md in ggml.

Knows keys and which tensors a file has; reads no weights but the table of rotary divisors.
"""

from __future__ import annotations

import math

import numpy as np

from plait.errors import ModelFileError, UnsupportedModelError
from plait.formats.check import require_tensor
from plait.formats.tensor import ModelSource
from plait.models.config import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_WIDTH, DecoderConfig, checked, head_dim_of
from plait.models.keys import Keys
from plait.models.rope import default_inv_freq, divided_inv_freq, linear_inv_freq
from plait.ops.api import Rope, RopeLayout

ROPE_DIVISORS = "rope_freqs.weight"


def llama_from_gguf(source: ModelSource) -> DecoderConfig:
    """Raises ModelFileError for keys that are missing, out of range or contradict each other, and
    UnsupportedModelError for what the llama architecture of GGUF may hold and Plait does not run."""
    keys = Keys(source.path, source.metadata, "llama.")
    if keys.integer("expert_count", 0, MAX_WIDTH, default=0) > 0:
        raise UnsupportedModelError(source.path, "this llama is a mixture of experts; Plait runs dense ones only")
    d_model = keys.integer("embedding_length", 1, MAX_WIDTH)
    n_heads = keys.uniform_integer("attention.head_count", 1, MAX_HEADS)
    head_dim = _head_dim(keys, "attention.key_length", d_model, n_heads)
    config = DecoderConfig(
        n_layers=keys.integer("block_count", 1, MAX_LAYERS),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=keys.uniform_integer("attention.head_count_kv", 1, MAX_HEADS, default=n_heads),
        head_dim=head_dim,
        v_head_dim=_head_dim(keys, "attention.value_length", d_model, n_heads),
        ff=keys.uniform_integer("feed_forward_length", 1, MAX_WIDTH),
        vocab=_vocab(keys, source),
        eps=keys.number("attention.layer_norm_rms_epsilon", 0, 1),
        rope=_rope(keys, source, head_dim),
        context_length=keys.integer("context_length", 1, MAX_CONTEXT),
        attention_scale=keys.number("attention.scale", 0, 1e6, default=0) or 1 / math.sqrt(head_dim),
        window=keys.integer("attention.sliding_window", 0, MAX_CONTEXT, default=0) or None,
        tied="output.weight" not in source.tensors,
        qkv_bias="blk.0.attn_q.bias" in source.tensors,
        out_bias="blk.0.attn_output.bias" in source.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in source.tensors,
    )
    return checked(config, source.path)


def _head_dim(keys: Keys, key: str, d_model: int, n_heads: int) -> int:
    default = None if keys.has(key) else head_dim_of(d_model, n_heads, keys.path)
    return keys.integer(key, 1, MAX_HEADS, default)


def _vocab(keys: Keys, source: ModelSource) -> int:
    """The key where there is one (older files have none), else the rows of the embedding table."""
    table = source.tensors.get("token_embd.weight")
    rows = table.shape[0] if table is not None and len(table.shape) == 2 else None
    return keys.integer("vocab_size", 1, MAX_WIDTH, default=rows)


def _rope(keys: Keys, source: ModelSource, head_dim: int) -> Rope:
    dim = keys.integer("rope.dimension_count", 0, MAX_HEADS, default=head_dim)
    if dim % 2:
        raise keys.error("rope.dimension_count", f"is {dim}; elements are rotated in pairs")
    inv_freq = default_inv_freq(keys.number("rope.freq_base", 1e-6, 1e15, default=10000.0), dim)
    if ROPE_DIVISORS in source.tensors:
        inv_freq = divided_inv_freq(inv_freq, _divisors(source, dim // 2))
    return Rope(RopeLayout.INTERLEAVED, linear_inv_freq(inv_freq, _scaling_factor(keys)))


def _scaling_factor(keys: Keys) -> float:
    # Files older than rope.scaling.* have linear scaling under rope.scale_linear.
    old = keys.number("rope.scale_linear", 1e-6, 1e6, default=1.0)
    kind = keys.string("rope.scaling.type", default="linear" if keys.has("rope.scaling.factor") else "none")
    if kind == "none":
        return old
    if kind != "linear":
        raise UnsupportedModelError(
            keys.path, f"{keys.name('rope.scaling.type')} is '{kind}'; Plait knows none, linear and llama3's table"
        )
    return keys.number("rope.scaling.factor", 1e-6, 1e6, default=old)


def _divisors(source: ModelSource, n: int) -> tuple[float, ...]:
    values = require_tensor(source, ROPE_DIVISORS, (n,)).numpy()
    if not np.all(np.isfinite(values) & (values > 0)):
        raise ModelFileError(source.path, "holds a divisor that is not a positive number", ROPE_DIVISORS)
    return tuple(values.astype(np.float64).tolist())
