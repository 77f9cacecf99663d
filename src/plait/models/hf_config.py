"""Hugging Face's config.json to `DecoderConfig`, for Llama and Mistral, as transformers 5 and older ones write it.

Knows keys; reads no tensors. Defaults are those of transformers' LlamaConfig and MistralConfig.
"""

from __future__ import annotations

import math

from plait.errors import UnsupportedModelError
from plait.formats.tensor import ModelSource
from plait.models.config import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_WIDTH, DecoderConfig, checked, head_dim_of
from plait.models.keys import Keys
from plait.models.rope import default_inv_freq, linear_inv_freq, llama3_inv_freq
from plait.ops.api import Activation, Rope, RopeLayout

ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
}


def llama_from_hf(source: ModelSource) -> DecoderConfig:
    """LlamaForCausalLM. Raises ModelFileError for keys that are missing, out of range or contradict each other, and
    UnsupportedModelError for a rope type, activation or quantisation that Plait does not know."""
    keys = Keys(source.path, source.metadata)
    bias = keys.boolean("attention_bias", default=False)
    return _decoder(keys, window=None, attention_bias=bias, mlp_bias=keys.boolean("mlp_bias", default=False))


def mistral_from_hf(source: ModelSource) -> DecoderConfig:
    """MistralForCausalLM: Llama without biases and perhaps with a sliding window. Raises what `llama_from_hf` does."""
    keys = Keys(source.path, source.metadata)
    window = None
    # Left out it is 4096; null says that there is none.
    if "sliding_window" not in source.metadata or keys.has("sliding_window"):
        window = keys.integer("sliding_window", 1, MAX_CONTEXT, default=4096)
    return _decoder(keys, window=window, attention_bias=False, mlp_bias=False)


def _decoder(keys: Keys, *, window: int | None, attention_bias: bool, mlp_bias: bool) -> DecoderConfig:
    _refuse_quantization(keys)
    d_model = keys.integer("hidden_size", 1, MAX_WIDTH)
    n_heads = keys.integer("num_attention_heads", 1, MAX_HEADS)
    head_default = None if keys.has("head_dim") else head_dim_of(d_model, n_heads, keys.path)
    head_dim = keys.integer("head_dim", 1, MAX_HEADS, head_default)
    config = DecoderConfig(
        n_layers=keys.integer("num_hidden_layers", 1, MAX_LAYERS),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=keys.integer("num_key_value_heads", 1, MAX_HEADS, default=n_heads),
        head_dim=head_dim,
        v_head_dim=head_dim,
        ff=keys.integer("intermediate_size", 1, MAX_WIDTH),
        vocab=keys.integer("vocab_size", 1, MAX_WIDTH),
        eps=keys.number("rms_norm_eps", 0, 1),
        rope=_rope(keys, head_dim),
        context_length=keys.integer("max_position_embeddings", 1, MAX_CONTEXT),
        attention_scale=1 / math.sqrt(head_dim),
        window=window,
        tied=keys.boolean("tie_word_embeddings", default=False),
        qkv_bias=attention_bias,
        out_bias=attention_bias,
        mlp_bias=mlp_bias,
        activation=_activation(keys),
    )
    return checked(config, keys.path)


def _refuse_quantization(keys: Keys) -> None:
    if keys.has("quantization_config"):
        method = keys.section("quantization_config").string("quant_method", default="unnamed")
        raise UnsupportedModelError(
            keys.path, f"its weights are quantised by '{method}'; give the original directory or a GGUF file"
        )


def _activation(keys: Keys) -> Activation:
    name = keys.string("hidden_act", default="silu")
    if name not in ACTIVATIONS:
        raise UnsupportedModelError(
            keys.path, f"{keys.name('hidden_act')} is '{name}'; Plait knows {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def _rope(keys: Keys, head_dim: int) -> Rope:
    """transformers 5 writes one object, rope_parameters; older ones rope_theta beside rope_scaling (null or an object
    whose type is under rope_type or, older still, type)."""
    if head_dim % 2:
        raise keys.error("head_dim", f"is {head_dim}; elements are rotated in pairs")
    scaling = keys.section("rope_parameters" if keys.has("rope_parameters") else "rope_scaling")
    theta_from = scaling if scaling.has("rope_theta") else keys
    inv_freq = default_inv_freq(theta_from.number("rope_theta", 1e-6, 1e15, default=10000.0), head_dim)
    for place in (scaling, keys):
        if place.number("partial_rotary_factor", 0, 1, default=1.0) != 1.0:
            raise UnsupportedModelError(keys.path, "key 'partial_rotary_factor': Llama and Mistral rotate whole heads")
    return Rope(RopeLayout.HALF, _scaled(inv_freq, scaling, keys))


def _scaled(inv_freq: tuple[float, ...], scaling: Keys, keys: Keys) -> tuple[float, ...]:
    kind = scaling.string("rope_type", default=scaling.string("type", default="default"))
    if kind == "default":
        return inv_freq
    if kind == "linear":
        return linear_inv_freq(inv_freq, scaling.number("factor", 1e-6, 1e6))
    if kind == "llama3":
        low, high = scaling.number("low_freq_factor", 0, 1e6), scaling.number("high_freq_factor", 0, 1e6)
        if low >= high:
            raise scaling.error("low_freq_factor", f"is {low}; it must be below high_freq_factor, {high}")
        original = scaling.integer(
            "original_max_position_embeddings",
            1,
            MAX_CONTEXT,
            default=keys.integer("max_position_embeddings", 1, MAX_CONTEXT),
        )
        return llama3_inv_freq(inv_freq, scaling.number("factor", 1e-6, 1e6), low, high, original)
    raise UnsupportedModelError(keys.path, f"rope type '{kind}'; Plait knows default, linear and llama3")
