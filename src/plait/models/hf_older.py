"""Hugging Face's config.json to `DecoderConfig`, for the families with layer norms, many with a plain MLP.

Knows keys; reads no tensors. Every reader raises what `hf_config.llama_from_hf` does.
"""

from __future__ import annotations

import math
from typing import Any

from plait.errors import UnsupportedModelError
from plait.formats.tensor import ModelSource
from plait.models.config import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_WIDTH, DecoderConfig, Norm, QkNorm
from plait.models.hf_config import activation, hf_keys, read_decoder, sliding_layers, window
from plait.models.keys import Keys
from plait.models.rope import alibi_slopes
from plait.ops.api import Activation, RopeLayout


def gpt2_from_hf(source: ModelSource) -> DecoderConfig:
    keys = hf_keys(source)
    for key, wanted in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
        if keys.boolean(key, default=wanted) is not wanted:
            raise UnsupportedModelError(keys.path, f"{keys.name(key)} is {not wanted}; Plait runs GPT-2 without that")
    d_model, context = keys.integer("n_embd", 1, MAX_WIDTH), keys.integer("n_positions", 1, MAX_CONTEXT)
    return read_decoder(
        keys,
        layout=None,
        n_layers=keys.integer("n_layer", 1, MAX_LAYERS),
        d_model=d_model,
        n_heads=keys.integer("n_head", 1, MAX_HEADS),
        ff=keys.integer("n_inner", 1, MAX_WIDTH, default=4 * d_model),
        context_length=context,
        positions=context,
        eps=keys.number("layer_norm_epsilon", 0, 1, default=1e-5),
        tied=keys.boolean("tie_word_embeddings", default=True),
        activation=activation(keys, "activation_function", "gelu_new"),
        norm=Norm.LAYER,
        norm_bias=True,
        gated=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


def gpt_neox_from_hf(source: ModelSource) -> DecoderConfig:
    keys = hf_keys(source)
    bias = keys.boolean("attention_bias", default=True)
    n_heads = keys.integer("num_attention_heads", 1, MAX_HEADS)
    return read_decoder(
        keys,
        partial=0.25,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        eps=keys.number("layer_norm_eps", 0, 1, default=1e-5),
        activation=activation(keys, "hidden_act", "gelu"),
        norm=Norm.LAYER,
        norm_bias=True,
        parallel=keys.boolean("use_parallel_residual", default=True),
        gated=False,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
    )


def falcon_from_hf(source: ModelSource) -> DecoderConfig:
    """Falcon 7B (one KV head, one norm), 40B and 180B (KV groups, two norms), 11B (one norm), RW (ALiBi)."""
    keys = hf_keys(source)
    grouped = keys.boolean("new_decoder_architecture", default=False)
    bias, alibi = keys.boolean("bias", default=False), keys.boolean("alibi", default=False)
    d_model, n_heads = keys.integer("hidden_size", 1, MAX_WIDTH), keys.integer("num_attention_heads", 1, MAX_HEADS)
    parallel = grouped or keys.boolean("parallel_attn", default=True)
    scale = 1 / math.sqrt(d_model // n_heads)
    norms = keys.integer("num_ln_in_parallel_attn", 1, 2, default=2 if grouped else 1)
    return read_decoder(
        keys,
        layout=None if alibi else RopeLayout.HALF,
        n_kv_heads=_falcon_kv_heads(keys, grouped, n_heads),
        ff=keys.integer("ffn_hidden_size", 1, MAX_WIDTH, default=4 * d_model),
        context_length=keys.integer("max_position_embeddings", 1, MAX_CONTEXT, default=2048),
        eps=keys.number("layer_norm_epsilon", 0, 1, default=1e-5),
        tied=keys.boolean("tie_word_embeddings", default=True),
        activation=activation(keys, "activation", "gelu"),
        norm=Norm.LAYER,
        norm_bias=True,
        parallel=parallel,
        shared_norm=parallel and norms == 1,
        gated=False,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        # Falcon scales the scores after it has added the slopes.
        slopes=tuple(scale * slope for slope in alibi_slopes(n_heads)) if alibi else None,
    )


def _falcon_kv_heads(keys: Keys, grouped: bool, n_heads: int) -> int:
    if grouped:
        return keys.integer("num_kv_heads", 1, MAX_HEADS, default=n_heads)
    return 1 if keys.boolean("multi_query", default=True) else n_heads


def mpt_from_hf(source: ModelSource) -> DecoderConfig:
    keys = hf_keys(source)
    attention = keys.section("attn_config")
    for key, wanted in (("alibi", True), ("qk_ln", False), ("prefix_lm", False)):
        if attention.boolean(key, default=wanted) is not wanted:
            raise UnsupportedModelError(
                keys.path, f"{attention.name(key)} is {not wanted}; Plait runs MPT without that"
            )
    if keys.integer("expansion_ratio", 1, 1000, default=4) != 4:
        raise UnsupportedModelError(
            keys.path, f"{keys.name('expansion_ratio')}: Plait, like transformers, runs MPT with 4"
        )
    d_model, n_heads = keys.integer("d_model", 1, MAX_WIDTH), keys.integer("n_heads", 1, MAX_HEADS)
    scale = attention.number("softmax_scale", 1e-9, 1e9, default=1 / math.sqrt(d_model // n_heads))
    return read_decoder(
        keys,
        layout=None,
        n_layers=keys.integer("n_layers", 1, MAX_LAYERS),
        d_model=d_model,
        n_heads=n_heads,
        ff=4 * d_model,
        context_length=keys.integer("max_seq_len", 1, MAX_CONTEXT),
        eps=keys.number("layer_norm_epsilon", 0, 1, default=1e-5),
        tied=keys.boolean("tie_word_embeddings", default=True),
        activation=Activation.GELU,
        norm=Norm.LAYER,
        gated=False,
        attention_scale=scale,
        slopes=alibi_slopes(n_heads, attention.number("alibi_bias_max", 0, 1e6, default=8)),
        clip_qkv=attention.number("clip_qkv", 1e-9, 1e9) if attention.has("clip_qkv") else None,
    )


def phi_from_hf(source: ModelSource) -> DecoderConfig:
    """Phi-1, 1.5 and 2."""
    keys = hf_keys(source)
    normed = keys.boolean("qk_layernorm", default=False)
    return read_decoder(
        keys,
        partial=0.5,
        eps=keys.number("layer_norm_eps", 0, 1, default=1e-5),
        activation=activation(keys, "hidden_act", "gelu_new"),
        norm=Norm.LAYER,
        norm_bias=True,
        parallel=True,
        shared_norm=True,
        gated=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        output_bias=True,
        qk_norm=QkNorm.HEAD if normed else QkNorm.NONE,
        qk_norm_bias=normed,
    )


def starcoder2_from_hf(source: ModelSource) -> DecoderConfig:
    keys = hf_keys(source)
    bias = keys.boolean("use_bias", default=True)
    return read_decoder(
        keys,
        eps=keys.number("norm_epsilon", 0, 1, default=1e-5),
        tied=keys.boolean("tie_word_embeddings", default=True),
        activation=activation(keys, "hidden_act", "gelu_pytorch_tanh"),
        norm=Norm.LAYER,
        norm_bias=True,
        gated=False,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        window=window(keys),
    )


def stablelm_from_hf(source: ModelSource) -> DecoderConfig:
    keys = hf_keys(source)
    parallel = keys.boolean("use_parallel_residual", default=False)
    return read_decoder(
        keys,
        partial=0.25,
        eps=keys.number("layer_norm_eps", 0, 1, default=1e-5),
        norm=Norm.LAYER,
        norm_bias=True,
        parallel=parallel,
        shared_norm=parallel,
        qkv_bias=keys.boolean("use_qkv_bias", default=False),
        qk_norm=QkNorm.EACH_HEAD if keys.boolean("qk_layernorm", default=False) else QkNorm.NONE,
    )


def olmo_from_hf(source: ModelSource) -> DecoderConfig:
    """Norms without weights."""
    keys = hf_keys(source)
    bias = keys.boolean("attention_bias", default=False)
    return read_decoder(
        keys,
        eps=1e-5,
        norm=Norm.LAYER,
        norm_weight=False,
        qkv_bias=bias,
        out_bias=bias,
        clip_qkv=keys.number("clip_qkv", 1e-9, 1e9) if keys.has("clip_qkv") else None,
    )


def cohere_from_hf(source: ModelSource) -> DecoderConfig:
    return _cohere(hf_keys(source))


def cohere2_from_hf(source: ModelSource) -> DecoderConfig:
    """Layers with a window rotate, the others do not."""
    keys = hf_keys(source)
    config, width = _cohere(keys), window(keys, 4096)
    slides = sliding_layers(keys, config.n_layers, keys.integer("sliding_window_pattern", 1, MAX_LAYERS, default=4))
    return _cohere(
        keys,
        rope=config.rope,
        ropes=tuple(config.rope if slide else None for slide in slides),
        windows=tuple(width if slide else None for slide in slides),
    )


def _cohere(keys: Keys, **changes: Any) -> DecoderConfig:
    bias = keys.boolean("attention_bias", default=False)
    return read_decoder(
        keys,
        layout=RopeLayout.INTERLEAVED,
        eps=keys.number("layer_norm_eps", 0, 1, default=1e-5),
        tied=keys.boolean("tie_word_embeddings", default=True),
        norm=Norm.LAYER,
        parallel=True,
        shared_norm=True,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=QkNorm.EACH_HEAD if keys.boolean("use_qk_norm", default=False) else QkNorm.NONE,
        logit_scale=keys.number("logit_scale", 1e-9, 1e9, default=0.0625),
        **changes,
    )
