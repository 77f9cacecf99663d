"""GGUF metadata to `DecoderConfig`, for the families near to llama: RMS norms and a gated MLP.

Knows keys and which tensors a file has. Where a key is missing that files of the family leave out, the default is
llama.cpp's. Every reader raises what `gguf_config.llama_from_gguf` does.
"""

from __future__ import annotations

import math
from typing import Any

from plait.errors import UnsupportedModelError
from plait.formats.tensor import ModelSource
from plait.models.config import MAX_LAYERS, MAX_WIDTH, DecoderConfig, NormPlace, QkNorm
from plait.models.gguf_config import gguf_keys, read_decoder, sliding_layers, window
from plait.models.gguf_rope import local_rope, read_ropes
from plait.models.keys import Keys
from plait.ops.api import Activation, RopeLayout

HALF, INTERLEAVED = RopeLayout.HALF, RopeLayout.INTERLEAVED


def halves_from_gguf(source: ModelSource) -> DecoderConfig:
    """llama with rotary halves: qwen2, phi3, exaone."""
    keys = gguf_keys(source)
    return read_decoder(keys, source, HALF, window=window(keys))


def qwen3_from_gguf(source: ModelSource) -> DecoderConfig:
    return read_decoder(gguf_keys(source), source, HALF, qk_norm=QkNorm.HEAD)


def mistral3_from_gguf(source: ModelSource) -> DecoderConfig:
    """Ministral 3, where its queries do not grow with their position."""
    keys = gguf_keys(source)
    if keys.number("attention.temperature_scale", 0, 1e9, default=0) != 0:
        raise UnsupportedModelError(
            source.path,
            f"{keys.name('attention.temperature_scale')}: queries scaled by their position are not supported",
        )
    return read_decoder(keys, source, INTERLEAVED, window=window(keys))


def smollm3_from_gguf(source: ModelSource) -> DecoderConfig:
    """Every fourth layer does not rotate; the file does not say so."""
    config = read_decoder(gguf_keys(source), source, INTERLEAVED)
    ropes = tuple(None if (layer + 1) % 4 == 0 else config.rope for layer in range(config.n_layers))
    return read_decoder(gguf_keys(source), source, INTERLEAVED, rope=config.rope, ropes=ropes)


def gemma_from_gguf(source: ModelSource) -> DecoderConfig:
    return _gemma(gguf_keys(source), source)


def gemma2_from_gguf(source: ModelSource) -> DecoderConfig:
    keys = gguf_keys(source)
    width = window(keys, 4096)
    return _gemma(
        keys,
        source,
        norm_place=NormPlace.BOTH,
        windows=tuple(width if slides else None for slides in sliding_layers(keys, 2)),
        attention_scale=_gemma2_scale(keys),
        attention_softcap=_cap(keys, "attn_logit_softcapping", 50.0),
        logit_softcap=_cap(keys, "final_logit_softcapping", 30.0),
    )


def _gemma2_scale(keys: Keys) -> float:
    """Gemma 2 and 3 27B divide by the width of a head as they count it: d_model / n_heads."""
    by_layers = {46: 4608 / 32, 62: 5376 / 32}  # files do not hold query_pre_attn_scalar
    dim = by_layers.get(keys.integer("block_count", 1, MAX_LAYERS))
    head_dim = keys.integer("attention.key_length", 1, MAX_WIDTH)
    return keys.number("attention.scale", 0, 1e6, default=0) or 1 / math.sqrt(dim or head_dim)


def gemma3_from_gguf(source: ModelSource) -> DecoderConfig:
    """Sliding layers rotate faster than full ones."""
    keys = gguf_keys(source)
    head_dim, width = keys.integer("attention.key_length", 1, MAX_WIDTH), window(keys, 1024)
    slides = sliding_layers(keys, 6)
    with_base = keys if keys.has("rope.freq_base") else _with(keys, "rope.freq_base", 1e6)
    full = read_ropes(with_base, source, HALF, head_dim, 1)["rope"]
    local = local_rope(keys, HALF, head_dim, 10000.0)
    return _gemma(
        keys,
        source,
        norm_place=NormPlace.BOTH,
        rope=full,
        ropes=tuple(local if slide else full for slide in slides),
        windows=tuple(width if slide else None for slide in slides),
        attention_scale=_gemma2_scale(keys),
        qk_norm=QkNorm.HEAD,
        logit_softcap=_cap(keys, "final_logit_softcapping", None),
    )


def _with(keys: Keys, key: str, value: object) -> Keys:
    return Keys(keys.path, {**keys.metadata, keys.prefix + key: value}, keys.prefix)


def _gemma(keys: Keys, source: ModelSource, **changes: Any) -> DecoderConfig:
    """The weights of the norms hold their offset already."""
    scale = math.sqrt(keys.integer("embedding_length", 1, MAX_WIDTH))
    return read_decoder(keys, source, HALF, **{"activation": Activation.GELU_TANH, "embedding_scale": scale, **changes})


def _cap(keys: Keys, key: str, default: float | None) -> float | None:
    value = keys.number(key, 0, 1e9, default=default or 0)
    return value or None


def granite_from_gguf(source: ModelSource) -> DecoderConfig:
    keys = gguf_keys(source)
    scale = {
        name: keys.number(name, 0, 1e9, default=0) or 1.0
        for name in ("embedding_scale", "residual_scale", "logit_scale")
    }
    return read_decoder(
        keys,
        source,
        INTERLEAVED,
        embedding_scale=scale["embedding_scale"],
        residual_scale=scale["residual_scale"],
        logit_scale=1 / scale["logit_scale"],
    )


def olmo2_from_gguf(source: ModelSource) -> DecoderConfig:
    keys = gguf_keys(source)
    return read_decoder(keys, source, HALF, norm_place=NormPlace.POST, qk_norm=QkNorm.ROW)


def exaone4_from_gguf(source: ModelSource) -> DecoderConfig:
    """Where some layers have a window, only they rotate."""
    keys = gguf_keys(source)
    config, width = read_decoder(keys, source, HALF), window(keys)
    slides = sliding_layers(keys, 4) if width else (False,) * config.n_layers
    return read_decoder(
        keys,
        source,
        HALF,
        norm_place=NormPlace.POST,
        qk_norm=QkNorm.HEAD,
        rope=config.rope,
        ropes=tuple(config.rope if slide or not width else None for slide in slides),
        windows=tuple(width if slide else None for slide in slides),
    )


def internlm2_from_gguf(source: ModelSource) -> DecoderConfig:
    return read_decoder(gguf_keys(source), source, INTERLEAVED)


def glm_from_gguf(source: ModelSource) -> DecoderConfig:
    """chatglm: GLM-3, GLM-4-9B."""
    return read_decoder(gguf_keys(source), source, INTERLEAVED)


def glm4_from_gguf(source: ModelSource) -> DecoderConfig:
    """GLM-4-0414."""
    return read_decoder(gguf_keys(source), source, INTERLEAVED, norm_place=NormPlace.BOTH)
