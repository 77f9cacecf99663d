"""Hugging Face's config.json to `DecoderConfig`, for the families near to Llama: RMS norms and a gated MLP.

Knows keys; reads no tensors. Every reader raises what `hf_config.llama_from_hf` does.
"""

from __future__ import annotations

import math
from typing import Any

from plait.errors import UnsupportedModelError
from plait.formats.tensor import ModelSource
from plait.models.config import MAX_CONTEXT, MAX_LAYERS, DecoderConfig, NormPlace, QkNorm
from plait.models.hf_config import hf_keys, read_decoder, sliding_layers, window, window_layers
from plait.models.hf_rope import read_ropes
from plait.models.keys import Keys
from plait.ops.api import Activation, Rope, RopeLayout


def qwen2_from_hf(source: ModelSource) -> DecoderConfig:
    """Qwen2 and 2.5: biases on q, k and v; the last layers may have a sliding window."""
    keys = hf_keys(source)
    return read_decoder(keys, qkv_bias=True, windows=_qwen_windows(keys))


def qwen3_from_hf(source: ModelSource) -> DecoderConfig:
    keys = hf_keys(source)
    bias = keys.boolean("attention_bias", default=False)
    windows = _qwen_windows(keys)
    return read_decoder(keys, qkv_bias=bias, out_bias=bias, qk_norm=QkNorm.HEAD, windows=windows)


def _qwen_windows(keys: Keys) -> tuple[int | None, ...]:
    if not keys.boolean("use_sliding_window", default=False):
        return ()
    if keys.has("layer_types"):
        return window_layers(keys, window(keys, 4096), 1)
    first = keys.integer("max_window_layers", 0, MAX_LAYERS, default=28)
    n_layers = keys.integer("num_hidden_layers", 1, MAX_LAYERS)
    return tuple(window(keys, 4096) if layer >= first else None for layer in range(n_layers))


def ministral_from_hf(source: ModelSource) -> DecoderConfig:
    keys = hf_keys(source)
    return read_decoder(keys, windows=window_layers(keys, window(keys, 4096), 1))


def smollm3_from_hf(source: ModelSource) -> DecoderConfig:
    """Every few layers one does not rotate."""
    keys = hf_keys(source)
    bias = keys.boolean("attention_bias", default=False)
    mlp_bias = keys.boolean("mlp_bias", default=False)
    config = read_decoder(keys, qkv_bias=bias, out_bias=bias, mlp_bias=mlp_bias)
    ropes = tuple(config.rope if turns else None for turns in _turning(keys, config.n_layers))
    windows: tuple[int | None, ...] = ()
    if keys.boolean("use_sliding_window", default=False) and keys.has("layer_types"):
        windows = window_layers(keys, window(keys), 1)
    return read_decoder(keys, qkv_bias=bias, out_bias=bias, mlp_bias=mlp_bias, rope=config.rope, ropes=ropes,
                        windows=windows)  # fmt: skip


def _turning(keys: Keys, n_layers: int) -> list[bool]:
    listed = keys.metadata.get("no_rope_layers")  # 1 for a layer that does rotate, in spite of the name
    if isinstance(listed, list) and listed:
        return [value == 1 for value in listed[:n_layers]]
    every = keys.integer("no_rope_layer_interval", 1, MAX_LAYERS, default=4)
    return [(layer + 1) % every != 0 for layer in range(n_layers)]


def gemma_from_hf(source: ModelSource) -> DecoderConfig:
    return _gemma(hf_keys(source))


def gemma2_from_hf(source: ModelSource) -> DecoderConfig:
    keys = hf_keys(source)
    return _gemma(
        keys,
        norm_place=NormPlace.BOTH,
        attention_scale=keys.number("query_pre_attn_scalar", 1e-6, 1e9, default=256) ** -0.5,
        windows=window_layers(keys, window(keys, 4096), 2),
        attention_softcap=_cap(keys, "attn_logit_softcapping", 50.0),
        logit_softcap=_cap(keys, "final_logit_softcapping", 30.0),
    )


GEMMA3_DEFAULTS = {
    "vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6,
}  # fmt: skip
"""What config.json of the models that also see leaves out."""


def gemma3_from_hf(source: ModelSource) -> DecoderConfig:
    """The text part; sliding layers rotate faster than full ones."""
    keys = hf_keys(source)
    text = keys.section("text_config") if keys.has("text_config") else keys
    keys = Keys(text.path, {**GEMMA3_DEFAULTS, **text.metadata})
    if keys.boolean("use_bidirectional_attention", default=False):
        raise UnsupportedModelError(keys.path, "this Gemma 3 attends in both directions; Plait runs causal ones")
    n_layers, head_dim = keys.integer("num_hidden_layers", 1, MAX_LAYERS), keys.integer("head_dim", 1, 1 << 16, 256)
    pattern = keys.integer("sliding_window_pattern", 1, MAX_LAYERS, default=6)
    full = read_ropes(keys, head_dim, RopeLayout.HALF, 1.0, MAX_CONTEXT, "full_attention")["rope"]
    local = _gemma3_local_rope(keys, head_dim)
    slides = sliding_layers(keys, n_layers, pattern)
    return _gemma(
        keys,
        norm_place=NormPlace.BOTH,
        attention_scale=keys.number("query_pre_attn_scalar", 1e-6, 1e9, default=256) ** -0.5,
        windows=window_layers(keys, window(keys, 4096), pattern),
        rope=full,
        ropes=tuple(local if slide else full for slide in slides),
        qk_norm=QkNorm.HEAD,
        attention_softcap=_cap(keys, "attn_logit_softcapping", None),
        logit_softcap=_cap(keys, "final_logit_softcapping", None),
    )


def _gemma3_local_rope(keys: Keys, head_dim: int) -> Rope:
    scaling = keys.section("rope_parameters")
    if scaling.has("sliding_attention"):
        rope: Rope = read_ropes(keys, head_dim, RopeLayout.HALF, 1.0, MAX_CONTEXT, "sliding_attention")["rope"]
        return rope
    base = keys.number("rope_local_base_freq", 1e-6, 1e15, default=10000.0)
    local = Keys(keys.path, {"rope_theta": base})
    found: Rope = read_ropes(local, head_dim, RopeLayout.HALF, 1.0, MAX_CONTEXT)["rope"]
    return found


def _gemma(keys: Keys, **changes: Any) -> DecoderConfig:
    bias = keys.boolean("attention_bias", default=False)
    defaults: dict[str, Any] = {
        "head_dim": keys.integer("head_dim", 1, 1 << 16, default=256),
        "qkv_bias": bias,
        "out_bias": bias,
        "norm_offset": 1.0,
        "tied": keys.boolean("tie_word_embeddings", default=True),
        # config.json of the first Gemma says gelu and means its tanh form.
        "activation": Activation.GELU_TANH,
        "embedding_scale": math.sqrt(keys.integer("hidden_size", 1, 1 << 24)),
    }
    return read_decoder(keys, **{**defaults, **changes})


def _cap(keys: Keys, key: str, default: float | None) -> float | None:
    if not keys.has(key) and key in keys.metadata:
        return None
    return keys.number(key, 1e-6, 1e9, default) if keys.has(key) or default is not None else None


def phi3_from_hf(source: ModelSource) -> DecoderConfig:
    """Phi-3, 3.5, 4 and 4-mini."""
    keys = hf_keys(source)
    return read_decoder(keys, window=window(keys))


def granite_from_hf(source: ModelSource) -> DecoderConfig:
    keys = hf_keys(source)
    bias = keys.boolean("attention_bias", default=False)
    factor = {
        name: keys.number(name, 1e-9, 1e9, default=1.0)
        for name in ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling")
    }
    return read_decoder(
        keys,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=keys.boolean("mlp_bias", default=False),
        attention_scale=factor["attention_multiplier"],
        embedding_scale=factor["embedding_multiplier"],
        residual_scale=factor["residual_multiplier"],
        logit_scale=1 / factor["logits_scaling"],
    )


def olmo2_from_hf(source: ModelSource) -> DecoderConfig:
    keys = hf_keys(source)
    bias = keys.boolean("attention_bias", default=False)
    return read_decoder(keys, qkv_bias=bias, out_bias=bias, norm_place=NormPlace.POST, qk_norm=QkNorm.ROW)


def exaone4_from_hf(source: ModelSource) -> DecoderConfig:
    """Where some layers have a window, only they rotate."""
    keys = hf_keys(source)
    config, width = read_decoder(keys), window(keys, 4096)
    # The pattern may be a string of letters; layer_types stands beside it then.
    pattern = 4 if keys.has("layer_types") else keys.integer("sliding_window_pattern", 1, MAX_LAYERS, default=4)
    slides = sliding_layers(keys, config.n_layers, pattern) if width else (False,) * config.n_layers
    return read_decoder(
        keys,
        norm_place=NormPlace.POST,
        qk_norm=QkNorm.HEAD,
        rope=config.rope,
        ropes=tuple(config.rope if slide or not width else None for slide in slides),
        windows=tuple(width if slide else None for slide in slides),
    )


def exaone_from_hf(source: ModelSource) -> DecoderConfig:
    """Exaone 3 and 3.5: Llama with keys and names of its own."""
    keys = hf_keys(source)
    return read_decoder(
        keys,
        n_layers=keys.integer("num_layers", 1, MAX_LAYERS),
        eps=keys.number("layer_norm_epsilon", 0, 1),
        activation=Activation.SILU,
    )


def internlm2_from_hf(source: ModelSource) -> DecoderConfig:
    keys = hf_keys(source)
    bias = keys.boolean("bias", default=False)
    return read_decoder(keys, qkv_bias=bias, out_bias=bias)


def internlm3_from_hf(source: ModelSource) -> DecoderConfig:
    keys = hf_keys(source)
    bias = keys.boolean("bias", default=False)
    return read_decoder(keys, qkv_bias=keys.boolean("qkv_bias", default=False), out_bias=bias, mlp_bias=bias)


def glm_from_hf(source: ModelSource) -> DecoderConfig:
    return _glm(source, NormPlace.PRE)


def glm4_from_hf(source: ModelSource) -> DecoderConfig:
    return _glm(source, NormPlace.BOTH)


def _glm(source: ModelSource, place: NormPlace) -> DecoderConfig:
    keys = hf_keys(source)
    bias = keys.boolean("attention_bias", default=False)
    return read_decoder(keys, layout=RopeLayout.INTERLEAVED, partial=0.5, qkv_bias=bias, norm_place=place)
