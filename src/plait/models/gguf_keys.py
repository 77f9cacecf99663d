"""A decoder's config as GGUF's keys. Names: the GGUF specification and gguf-py's constants.

Knows keys of both containers; reads no weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from plait.formats.tensor import F32Array, LazyTensor, ModelSource, U8Array
from plait.models.config import DecoderConfig, Norm
from plait.models.gguf_rope import LONG_DIVISORS, ROPE_DIVISORS, SHORT_DIVISORS
from plait.models.hf_families import GEMMA3_DEFAULTS
from plait.models.hf_rope import RopeReader
from plait.models.keys import Keys
from plait.models.rope import default_inv_freq, yarn_scale
from plait.ops.api import Rope


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A small vector of numbers that no file holds."""

    name: str
    values: F32Array
    format: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def raw(self) -> U8Array:
        return self.values.view(np.uint8).reshape(1, -1)

    def numpy(self) -> F32Array:
        return self.values


def text_keys(source: ModelSource) -> Keys:
    """config.json's keys of the decoder; those of a model that also sees are in a section."""
    keys = Keys(source.path, source.metadata)
    if not keys.has("text_config"):
        return keys
    return Keys(source.path, {**GEMMA3_DEFAULTS, **keys.section("text_config").metadata})


def gguf_pairs(architecture: str, config: DecoderConfig, source: ModelSource) -> dict[str, object]:
    """All keys but those of the tokenizer and the file's type."""
    pairs: dict[str, object] = {
        "block_count": config.n_layers,
        "context_length": config.context_length,
        "embedding_length": config.d_model,
        "feed_forward_length": config.ff,
        "vocab_size": config.vocab,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.v_head_dim,
        f"attention.layer_norm_{'rms_' if config.norm is Norm.RMS else ''}epsilon": config.eps,
        **_rope_pairs(config, text_keys(source)),
        **_window_pairs(architecture, config),
        **_own_pairs(architecture, config, source),
    }
    name = source.path.name or architecture
    general = {"general.architecture": architecture, "general.type": "model", "general.name": name}
    return {**general, **{f"{architecture}.{key}": value for key, value in pairs.items()}}


def _own_pairs(architecture: str, config: DecoderConfig, source: ModelSource) -> dict[str, object]:
    caps = {"attn_logit_softcapping": config.attention_softcap, "final_logit_softcapping": config.logit_softcap}
    pairs: dict[str, object] = {key: cap for key, cap in caps.items() if cap is not None}
    if architecture == "granite":
        pairs |= {
            "embedding_scale": config.embedding_scale,
            "residual_scale": config.residual_scale,
            "logit_scale": 1 / config.logit_scale,
            "attention.scale": config.attention_scale,
        }
    if config.clip_qkv is not None:
        pairs["attention.clamp_kqv"] = config.clip_qkv
    if architecture == "mpt":
        attention = text_keys(source).section("attn_config")
        pairs["attention.max_alibi_bias"] = attention.number("alibi_bias_max", 0, 1e6, default=8.0)
    if architecture == "gptneox":
        pairs["use_parallel_residual"] = config.parallel
    if architecture in ("command-r", "cohere2"):
        pairs["logit_scale"] = config.logit_scale
    return pairs


def _window_pairs(architecture: str, config: DecoderConfig) -> dict[str, object]:
    """One window for all of the layers that have one; which these are GGUF knows of the family, or is told."""
    windows = [config.windows[i] if config.windows else config.window for i in range(config.n_layers)]
    width = max((window for window in windows if window is not None), default=0)
    if not width and architecture != "phi3":
        return {}
    pairs: dict[str, object] = {"attention.sliding_window": width}
    if architecture == "exaone4":
        pairs["attention.sliding_window_pattern"] = [window is not None for window in windows]
    return pairs


def _rope_pairs(config: DecoderConfig, keys: Keys) -> dict[str, object]:
    rope = _rope_of(config)
    if rope is None:
        return {}
    reader = _reader(config, keys, rope)
    kind, scaling = reader.kind, reader.scaling
    pairs: dict[str, object] = {"rope.dimension_count": 2 * len(rope.inv_freq), "rope.freq_base": reader.theta}
    if kind == "linear":
        pairs |= {"rope.scaling.type": "linear", "rope.scaling.factor": scaling.number("factor", 1e-6, 1e6)}
    if kind in ("longrope", "su"):
        original = config.short_context
        pairs |= {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": rope.scale}
    if kind == "yarn":
        pairs |= _yarn_pairs(reader, rope, config.context_length)
    local = _local_base(keys)
    return pairs if local is None else {**pairs, "rope.freq_base_swa": local}


def _yarn_pairs(reader: RopeReader, rope: Rope, context: int) -> dict[str, object]:
    scaling, original = reader.scaling, reader.original()
    factor = scaling.number("factor", 1e-6, 1e6, default=context / original)
    pairs: dict[str, object] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": original,
    }
    for key in ("beta_fast", "beta_slow"):
        if scaling.has(key):
            pairs[f"rope.scaling.yarn_{key}"] = scaling.number(key, 1e-3, 1e6)
    more = rope.scale / yarn_scale(factor)
    return pairs if abs(more - 1) < 1e-6 else {**pairs, "rope.scaling.attn_factor": more}


def _rope_of(config: DecoderConfig) -> Rope | None:
    return config.rope or next((rope for rope in config.ropes if rope is not None), None)


def _reader(config: DecoderConfig, keys: Keys, rope: Rope) -> RopeReader:
    share = 2 * len(rope.inv_freq) / config.head_dim
    return RopeReader(keys, config.head_dim, rope.layout, share, config.context_length, "full_attention")


def _local_base(keys: Keys) -> float | None:
    """Gemma 3's, of the layers with a window."""
    sliding = keys.section("rope_parameters")
    if sliding.has("sliding_attention"):
        return sliding.section("sliding_attention").number("rope_theta", 1e-6, 1e15, default=10000.0)
    return keys.number("rope_local_base_freq", 1e-6, 1e15) if keys.has("rope_local_base_freq") else None


def rope_tensors(config: DecoderConfig, source: ModelSource) -> Iterator[LazyTensor]:
    """Tables of what each frequency is divided by: llama3's, and both of longrope's."""
    keys = text_keys(source)
    rope = _rope_of(config)
    if rope is None:
        return
    reader = _reader(config, keys, rope)
    plain = np.array(default_inv_freq(reader.theta, 2 * len(rope.inv_freq)))
    if reader.kind == "llama3":
        yield Table(ROPE_DIVISORS, (plain / np.array(rope.inv_freq)).astype(np.float32))
    if config.short_rope is not None:
        yield Table(LONG_DIVISORS, (plain / np.array(rope.inv_freq)).astype(np.float32))
        yield Table(SHORT_DIVISORS, (plain / np.array(config.short_rope.inv_freq)).astype(np.float32))
