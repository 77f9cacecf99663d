"""Hugging Face's config.json to `DecoderConfig`: what all families share, and Llama with those that differ from it in
little. The others: `hf_families`. As transformers 5 and older ones write it.

Knows keys; reads no tensors. Defaults are those of transformers' config classes.
"""

from __future__ import annotations

import math
from typing import Any

from plait.errors import UnsupportedModelError
from plait.formats.tensor import ModelSource
from plait.models.config import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_WIDTH, DecoderConfig, checked, head_dim_of
from plait.models.hf_rope import read_ropes
from plait.models.keys import Keys
from plait.ops.api import Activation, RopeLayout

ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
}


def hf_keys(source: ModelSource) -> Keys:
    """The decoder's keys."""
    return Keys(source.path, source.metadata)


def read_decoder(
    keys: Keys, *, layout: RopeLayout | None = RopeLayout.HALF, partial: float = 1.0, **changes: Any
) -> DecoderConfig:
    """The config that Llama's keys give, with `changes` to its fields; a field among `changes` is not read. `layout`
    None: the family does not rotate. `partial`: the share of a head that it rotates by default."""
    found = _sizes(keys, changes)
    found.setdefault("attention_scale", 1 / math.sqrt(found["head_dim"]))
    if layout is not None and "rope" not in changes:
        found |= read_ropes(keys, found["head_dim"], layout, partial, found["context_length"])
    return checked(DecoderConfig(**{"rope": None, **found}), keys.path)


def _sizes(keys: Keys, changes: dict[str, Any]) -> dict[str, Any]:
    found = dict(changes)

    def want(field: str, key: str, high: int, default: int | None = None) -> int:
        if field not in found:
            found[field] = keys.integer(key, 1, high, default)
        return int(found[field])

    d_model = want("d_model", "hidden_size", MAX_WIDTH)
    n_heads = want("n_heads", "num_attention_heads", MAX_HEADS)
    has_dim = "head_dim" in found or keys.has("head_dim")
    head_dim = want("head_dim", "head_dim", MAX_HEADS, None if has_dim else head_dim_of(d_model, n_heads, keys.path))
    found.setdefault("v_head_dim", head_dim)
    want("n_layers", "num_hidden_layers", MAX_LAYERS)
    want("n_kv_heads", "num_key_value_heads", MAX_HEADS, n_heads)
    want("ff", "intermediate_size", MAX_WIDTH)
    want("vocab", "vocab_size", MAX_WIDTH)
    want("context_length", "max_position_embeddings", MAX_CONTEXT)
    if "eps" not in found:
        found["eps"] = keys.number("rms_norm_eps", 0, 1)
    if "tied" not in found:
        found["tied"] = keys.boolean("tie_word_embeddings", default=False)
    if "activation" not in found:
        found["activation"] = activation(keys, "hidden_act", "silu")
    return found


def activation(keys: Keys, key: str, default: str) -> Activation:
    name = keys.string(key, default=default)
    if name not in ACTIVATIONS:
        raise UnsupportedModelError(keys.path, f"{keys.name(key)} is '{name}'; Plait knows {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def window(keys: Keys, default: int | None = None) -> int | None:
    """The sliding window. Left out it is `default`; null says that there is none."""
    if keys.has("sliding_window") or ("sliding_window" not in keys.metadata and default is not None):
        return keys.integer("sliding_window", 1, MAX_CONTEXT, default)
    return None


def sliding_layers(keys: Keys, n_layers: int, pattern: int) -> tuple[bool, ...]:
    """Which layers have the window: what layer_types says, else all but every `pattern`-th."""
    kinds = keys.metadata.get("layer_types")
    if kinds is None:
        return tuple((layer + 1) % pattern != 0 for layer in range(n_layers))
    known = {"full_attention": False, "sliding_attention": True}
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise keys.error("layer_types", f"is {kinds!r}; it must be a list of names")
    odd = sorted(set(kinds) - set(known))
    if odd:
        raise UnsupportedModelError(keys.path, f"a layer is of type '{odd[0]}'; Plait knows {', '.join(known)}")
    return tuple(known[kind] for kind in kinds)


def window_layers(keys: Keys, window: int | None, pattern: int) -> tuple[int | None, ...]:
    """Each layer's window."""
    n_layers = keys.integer("num_hidden_layers", 1, MAX_LAYERS)
    return tuple(window if slides else None for slides in sliding_layers(keys, n_layers, pattern))


def llama_from_hf(source: ModelSource) -> DecoderConfig:
    """LlamaForCausalLM. Raises ModelFileError for keys that are missing, out of range or contradict each other, and
    UnsupportedModelError for a rope type or an activation that Plait does not know."""
    keys = hf_keys(source)
    bias = keys.boolean("attention_bias", default=False)
    return read_decoder(keys, qkv_bias=bias, out_bias=bias, mlp_bias=keys.boolean("mlp_bias", default=False))


def mistral_from_hf(source: ModelSource) -> DecoderConfig:
    """MistralForCausalLM: Llama without biases and perhaps with a sliding window. Raises what `llama_from_hf` does."""
    keys = hf_keys(source)
    return read_decoder(keys, window=window(keys, 4096))
