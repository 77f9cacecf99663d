"""Configs of the Llama family out of GGUF metadata and config.json, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import ModelFileError, PlaitError, UnsupportedModelError
from plait.models.gguf_config import llama_from_gguf
from plait.models.hf_config import llama_from_hf, mistral_from_hf
from plait.models.registry import load_model
from plait.ops.api import Activation, RopeLayout
from support.tensors import ArrayTensor, MemorySource
from support.tiny_llama import LLAMA3, VARIANTS, TinyLlama

PLAIN = TinyLlama()


def gguf(changes: dict[str, object] | None = None, tiny: TinyLlama = PLAIN) -> MemorySource:
    """`tiny` as GGUF with `changes` to its llama.* keys; None takes a key out."""
    source = tiny.source("gguf")
    for key, value in (changes or {}).items():
        source.metadata[f"llama.{key}"] = value
    return strip(source)


def hf(changes: dict[str, object] | None = None, tiny: TinyLlama = PLAIN) -> MemorySource:
    source = tiny.source("safetensors")
    source.metadata.update(changes or {})
    return source


def strip(source: MemorySource) -> MemorySource:
    metadata = {key: value for key, value in source.metadata.items() if value is not None}
    return MemorySource(metadata, source.tensors, source.container)


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_containers_say_the_same(variant: str) -> None:
    tiny = VARIANTS[variant]
    a, b = load_model(tiny.source("gguf")), load_model(tiny.source("safetensors"))
    assert (a.n_parameters, a.weight_bytes) == (b.n_parameters, b.weight_bytes)
    assert replace(a.config, rope=b.config.rope) == b.config
    assert a.config.rope.layout is RopeLayout.INTERLEAVED
    assert b.config.rope.layout is RopeLayout.HALF
    assert a.config.rope.inv_freq == pytest.approx(b.config.rope.inv_freq, rel=1e-6)


# --- GGUF ---------------------------------------------------------------------------------------------------------


def test_gguf_defaults() -> None:
    absent = ("attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.freq_base",
              "rope.dimension_count", "vocab_size")  # fmt: skip
    config = llama_from_gguf(gguf(dict.fromkeys(absent)))
    assert (config.n_kv_heads, config.head_dim, config.v_head_dim, config.vocab) == (4, 8, 8, 40)
    assert config.rope.inv_freq == pytest.approx([1, 0.1, 0.01, 0.001])
    assert config.attention_scale == pytest.approx(1 / math.sqrt(8))


def test_gguf_numbers_may_be_numpys_and_lists_of_equals() -> None:
    config = llama_from_gguf(
        gguf(
            {
                "block_count": np.uint32(2),
                "attention.head_count_kv": np.array([2, 2]),
                "feed_forward_length": [48, 48],
                "attention.layer_norm_rms_epsilon": np.float32(1e-5),
            }
        )
    )
    assert (config.n_layers, config.n_kv_heads, config.ff) == (2, 2, 48)
    assert type(config.n_layers) is int
    assert config.eps == pytest.approx(1e-5)


def test_gguf_partial_rotation_and_own_scale() -> None:
    config = llama_from_gguf(gguf({"rope.dimension_count": 4, "attention.scale": 0.25}))
    assert config.rope.inv_freq == pytest.approx([1, 0.01])
    assert config.attention_scale == 0.25


def test_gguf_value_heads_of_another_width() -> None:
    assert llama_from_gguf(gguf({"attention.value_length": 6})).kv_shape().v_head_dim == 6


def test_gguf_old_linear_scaling() -> None:
    config = llama_from_gguf(gguf({"rope.scale_linear": 2.0}))
    assert config.rope.inv_freq == pytest.approx([0.5, 0.05, 0.005, 0.0005])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_count": None}, "key 'llama.block_count' is missing"),
        ({"embedding_length": None}, "key 'llama.embedding_length' is missing"),
        ({"attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon' is missing"),
        ({"context_length": None}, "context_length' is missing"),
        ({"block_count": -1}, "block_count' is -1; it must be between 1 and"),
        ({"block_count": 10**9}, "block_count' is 1000000000"),
        ({"block_count": "two"}, "block_count' is 'two'; it must be a whole number"),
        ({"block_count": True}, "block_count' is True"),
        ({"attention.head_count": 0}, "head_count' is 0"),
        ({"attention.head_count_kv": 3}, "4 attention heads cannot be shared out over 3"),
        ({"attention.head_count_kv": []}, "head_count_kv' is an empty list"),
        ({"attention.head_count_kv": [2, "x"]}, "key 'llama.attention.head_count_kv' is 'x'"),
        ({"attention.head_count": 5, "attention.key_length": None}, "32 cannot be shared out over 5"),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, "is nan; it must be finite"),
        ({"rope.freq_base": 0.0}, "freq_base' is 0.0"),
        ({"rope.dimension_count": 7}, "rotated in pairs"),
        ({"rope.dimension_count": 10}, "10 elements of each head are rotated, but it has 8"),
        ({"vocab_size": 41}, "'token_embd.weight'"),
        ({"feed_forward_length": 47}, "tensor 'blk.0.ffn_gate.weight'"),
        ({"embedding_length": 64}, "tensor 'token_embd.weight'"),
        ({"block_count": 3}, "tensor 'blk.2.attn_norm.weight': is missing"),
    ],
)
def test_gguf_that_is_wrong(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        load_model(gguf(changes))
    assert str(caught.value).startswith("memory: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_count": 8}, "mixture of experts"),
        ({"attention.head_count_kv": [2, 4]}, r"differs between layers \(\[2, 4\]\)"),
        ({"rope.scaling.type": "ntk", "rope.scaling.factor": 4.0}, "is 'ntk'; Plait knows none, linear"),
        ({"block_count": 1}, "'blk.1.* have no place in this architecture"),
    ],
)
def test_gguf_that_is_not_supported(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        load_model(gguf(changes))


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 2.0, 0.0, 1.0], [1.0, 2.0, float("inf"), 1.0]])
def test_gguf_rotary_divisors_that_are_wrong(values: list[float]) -> None:
    source = gguf()
    source.tensors["rope_freqs.weight"] = ArrayTensor("rope_freqs.weight", np.array(values, np.float32))
    with pytest.raises(ModelFileError, match=r"tensor 'rope_freqs\.weight'"):
        load_model(source)


# --- Hugging Face -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_old_and_new_config_json_say_the_same(variant: str) -> None:
    tiny = VARIANTS[variant]
    read = llama_from_hf if tiny.window is None else mistral_from_hf
    assert read(MemorySource(tiny.old_hf_config())) == read(MemorySource(tiny.hf_config()))


def test_hf_defaults() -> None:
    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
              "rms_norm_eps", "max_position_embeddings")  # fmt: skip
    config = llama_from_hf(MemorySource({key: PLAIN.hf_config()[key] for key in needed}))
    assert (config.n_kv_heads, config.head_dim, config.window, config.tied) == (4, 8, None, False)
    assert config.rope.inv_freq == pytest.approx([1, 0.1, 0.01, 0.001])
    assert config.activation is Activation.SILU


def test_hf_oldest_rope_scaling_has_type() -> None:
    config = llama_from_hf(hf({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}))
    assert config.rope.inv_freq == pytest.approx([0.5, 0.05, 0.005, 0.0005])


def test_hf_nulls_are_absent_keys() -> None:
    config = llama_from_hf(hf({"num_key_value_heads": None, "head_dim": None, "rope_parameters": None}))
    assert (config.n_kv_heads, config.head_dim) == (4, 8)


def test_hf_activation() -> None:
    assert llama_from_hf(hf({"hidden_act": "gelu_pytorch_tanh"})).activation is Activation.GELU_TANH


def test_mistral_window() -> None:
    mistral = TinyLlama(window=8)
    assert mistral_from_hf(hf(tiny=mistral)).window == 8
    assert mistral_from_hf(hf({"sliding_window": None}, mistral)).window is None
    absent = hf(tiny=mistral)
    del absent.metadata["sliding_window"]
    assert mistral_from_hf(absent).window == 4096


def test_a_window_as_long_as_the_context_is_none() -> None:
    assert mistral_from_hf(hf(tiny=TinyLlama(window=128))).kv_shape().groups[0].window is None
    assert mistral_from_hf(hf(tiny=TinyLlama(window=127))).kv_shape().groups[0].window == 127


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "key 'hidden_size' is missing"),
        ({"num_hidden_layers": 0}, "num_hidden_layers' is 0"),
        ({"num_attention_heads": -4}, "num_attention_heads' is -4"),
        ({"num_key_value_heads": 3}, "cannot be shared out over 3"),
        ({"vocab_size": 1 << 40}, "vocab_size' is 1099511627776"),
        ({"vocab_size": 40.0}, "vocab_size' is 40.0; it must be a whole number"),
        ({"head_dim": 7}, "head_dim' is 7; elements are rotated in pairs"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps' is 'small'; it must be a number"),
        ({"attention_bias": "yes"}, "attention_bias' is 'yes'; it must be true or false"),
        ({"attention_bias": True}, "tensor 'model.layers.0.self_attn.q_proj.bias': is missing"),
        ({"rope_parameters": [1]}, "rope_parameters' is \\[1\\]; it must be an object"),
        ({"rope_parameters": {"rope_type": "linear"}}, "key 'factor' is missing"),
        ({"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0}}, "must be below high_freq_factor"),
        ({"rope_parameters": {**LLAMA3, "factor": None}}, "key 'factor' is missing"),
        ({"intermediate_size": 49}, "tensor 'model.layers.0.mlp.gate_proj.weight': shape"),
    ],
)
def test_hf_that_is_wrong(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_model(hf(changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "xpos", "factor": 2.0}}, "rope type 'xpos'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "ntk", "factor": 2.0}}, "rope type 'ntk'"),
        ({"hidden_act": "relu"}, "hidden_act' is 'relu'"),
        ({"num_hidden_layers": 1}, "no place in this architecture"),
    ],
)
def test_hf_that_is_not_supported(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        load_model(hf(changes))


def test_biases_that_the_config_denies_are_not_dropped_in_silence() -> None:
    with pytest.raises(UnsupportedModelError, match=r"q_proj\.bias"):
        load_model(hf({"attention_bias": False}, TinyLlama(attention_bias=True)))


def test_an_output_matrix_is_needed_unless_tied() -> None:
    source = hf({"tie_word_embeddings": False}, TinyLlama(tied=True))
    with pytest.raises(ModelFileError, match=r"tensor 'lm_head\.weight': is missing"):
        load_model(source)


def test_tied_models_may_repeat_the_embedding() -> None:
    assert load_model(hf({"tie_word_embeddings": True})).n_parameters < load_model(hf()).n_parameters


# --- the registry -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (MemorySource({"general.architecture": "llama4"}, container="gguf"), "'llama4' .* nearest that are: llama"),
        (MemorySource({"general.architecture": "rwkv"}, container="gguf"), "'rwkv' .* nearest that are: llama"),
        (MemorySource({"architectures": ["MixtralForCausalLM"]}), "nearest that are: MistralForCausalLM"),
        (MemorySource({"architectures": ["Zzz"]}), "nearest that are: LlamaForCausalLM, MistralForCausalLM"),
    ],
)
def test_an_unknown_architecture_is_named(source: MemorySource, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        load_model(source)


@pytest.mark.parametrize("metadata", [{}, {"architectures": []}, {"architectures": "LlamaForCausalLM"}])
def test_a_file_must_say_what_it_is(metadata: dict[str, object]) -> None:
    with pytest.raises(ModelFileError, match="'architectures' is missing"):
        load_model(MemorySource(metadata))


def test_loaded_model_facts() -> None:
    source = PLAIN.source("gguf")
    model = load_model(source)
    assert model.architecture == "llama"
    assert (model.context_length, model.vocab_size) == (128, 40)
    assert model.n_parameters == sum(math.prod(tensor.shape) for tensor in source.tensors.values())
    assert model.weight_bytes == 4 * model.n_parameters
    assert model.kv.n_layers == 2
    assert source.path == Path("memory")


def refusal(source: MemorySource) -> str:
    """What `load_model` says against the source; errors that are not ours escape."""
    try:
        load_model(source)
    except PlaitError as error:
        return str(error)
    return "loads"


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3),
    st.lists(st.integers(-1, 5), max_size=3), st.dictionaries(st.sampled_from(["rope_type", "factor"]), st.text()),
)  # fmt: skip


@given(key=st.sampled_from(sorted(PLAIN.gguf_metadata())), value=JUNK)
def test_any_value_of_a_gguf_key_loads_or_is_refused_by_name(key: str, value: object) -> None:
    source = PLAIN.source("gguf")
    source.metadata[key] = value
    assert refusal(source).startswith(("memory: ", "loads"))


@given(key=st.sampled_from([*sorted(PLAIN.hf_config()), "rope_scaling", "quantization_config"]), value=JUNK)
def test_any_value_of_a_config_json_key_loads_or_is_refused_by_name(key: str, value: object) -> None:
    source = PLAIN.source("safetensors")
    source.metadata[key] = value
    assert refusal(source).startswith(("memory: ", "loads"))
