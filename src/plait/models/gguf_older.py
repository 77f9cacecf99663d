"""GGUF metadata to `DecoderConfig`, for the families with layer norms, many with a plain MLP.

Knows keys and which tensors a file has. Every reader raises what `gguf_config.llama_from_gguf` does.
"""

from __future__ import annotations

from typing import Any

from plait.formats.tensor import ModelSource
from plait.models.config import MAX_CONTEXT, DecoderConfig, Norm, QkNorm
from plait.models.gguf_config import gguf_keys, read_decoder, sliding_layers, window
from plait.models.keys import Keys
from plait.models.rope import alibi_slopes
from plait.ops.api import Activation, RopeLayout

HALF, INTERLEAVED = RopeLayout.HALF, RopeLayout.INTERLEAVED


def gpt2_from_gguf(source: ModelSource) -> DecoderConfig:
    keys = gguf_keys(source)
    context = keys.integer("context_length", 1, MAX_CONTEXT)
    return _plain(keys, source, None, positions=context, activation=Activation.GELU_TANH)


def gptneox_from_gguf(source: ModelSource) -> DecoderConfig:
    keys = gguf_keys(source)
    return _plain(keys, source, HALF, parallel=keys.boolean("use_parallel_residual", default=True))


def falcon_from_gguf(source: ModelSource) -> DecoderConfig:
    two_norms = "blk.0.attn_norm_2.weight" in source.tensors
    return _plain(gguf_keys(source), source, HALF, parallel=True, shared_norm=not two_norms)


def mpt_from_gguf(source: ModelSource) -> DecoderConfig:
    keys = gguf_keys(source)
    config = _plain(keys, source, None)
    clip = keys.number("attention.clamp_kqv", 0, 1e9, default=0) or None
    slopes = alibi_slopes(config.n_heads, keys.number("attention.max_alibi_bias", 0, 1e6, default=8))
    return _plain(keys, source, None, slopes=slopes, clip_qkv=clip)


def phi2_from_gguf(source: ModelSource) -> DecoderConfig:
    keys = gguf_keys(source)
    return _plain(keys, source, HALF, parallel=True, shared_norm=True, activation=Activation.GELU_TANH)


def starcoder2_from_gguf(source: ModelSource) -> DecoderConfig:
    keys = gguf_keys(source)
    return _plain(keys, source, HALF, activation=Activation.GELU_TANH, window=window(keys))


def stablelm_from_gguf(source: ModelSource) -> DecoderConfig:
    # Where attention and MLP share a norm, the file has no second one.
    parallel = "blk.0.ffn_norm.weight" not in source.tensors
    return _layer_normed(gguf_keys(source), source, HALF, parallel=parallel, shared_norm=parallel)


def olmo_from_gguf(source: ModelSource) -> DecoderConfig:
    """Norms without weights."""
    keys = gguf_keys(source)
    clip = keys.number("attention.clamp_kqv", 0, 1e9, default=0) or None
    return _layer_normed(keys, source, INTERLEAVED, norm_weight=False, clip_qkv=clip)


def command_r_from_gguf(source: ModelSource) -> DecoderConfig:
    return _cohere(gguf_keys(source), source)


def cohere2_from_gguf(source: ModelSource) -> DecoderConfig:
    """Layers with a window rotate, the others do not."""
    keys = gguf_keys(source)
    config, width, slides = _cohere(keys, source), window(keys), sliding_layers(keys, 4)
    return _cohere(
        keys,
        source,
        rope=config.rope,
        ropes=tuple(config.rope if slide else None for slide in slides),
        windows=tuple(width if slide else None for slide in slides),
    )


def _cohere(keys: Keys, source: ModelSource, **changes: Any) -> DecoderConfig:
    scale = keys.number("logit_scale", 1e-9, 1e9, default=0.0625)
    return _layer_normed(keys, source, INTERLEAVED, parallel=True, shared_norm=True, logit_scale=scale, **changes)


def _plain(keys: Keys, source: ModelSource, layout: RopeLayout | None, **changes: Any) -> DecoderConfig:
    """An MLP without a gate."""
    return _layer_normed(keys, source, layout, **{"gated": False, "activation": Activation.GELU, **changes})


def _layer_normed(keys: Keys, source: ModelSource, layout: RopeLayout | None, **changes: Any) -> DecoderConfig:
    q_norm = source.tensors.get("blk.0.attn_q_norm.weight")
    qk_norm = QkNorm.NONE if q_norm is None else QkNorm.HEAD if len(q_norm.shape) == 1 else QkNorm.EACH_HEAD
    return read_decoder(keys, source, layout, **{"norm": Norm.LAYER, "qk_norm": qk_norm, **changes})
