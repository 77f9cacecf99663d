"""A tiny model as llama.cpp's converters write it: metadata by their keys, tensors by gguf-py's table of names, rows in
their order. A variant that GGUF cannot say raises KeyError."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from gguf.constants import MODEL_ARCH_NAMES
from gguf.tensor_mapping import get_tensor_name_map

from plait.formats.tensor import F32Array
from support.tiny_models import GGUF_ARCHITECTURES, HF_ONLY, TinyModel
from support.tiny_names import Arrays

PERMUTED = ("llama", "smollm3", "granite", "olmo", "internlm2")
LAYER_NORM = ("phi2", "starcoder2", "falcon", "gpt2", "gptneox", "mpt", "command-r", "cohere2", "olmo", "stablelm")


def gguf_architecture(tiny: TinyModel) -> str:
    if tiny.name in HF_ONLY:
        raise KeyError(f"GGUF has no {tiny.name}")
    return GGUF_ARCHITECTURES[tiny.architecture]


class Facts:
    """The numbers of a config.json under one name each."""

    def __init__(self, config: dict[str, Any]) -> None:
        def first(*keys: str, default: Any = None) -> Any:
            return next((config[key] for key in keys if config.get(key) is not None), default)

        self.config = config
        self.width = first("hidden_size", "n_embd", "d_model")
        self.heads = first("num_attention_heads", "n_head", "n_heads")
        self.layers = first("num_hidden_layers", "n_layer", "n_layers")
        self.context = first("max_position_embeddings", "n_positions", "max_seq_len")
        self.head_dim = first("head_dim", default=self.width // self.heads)
        self.kv_heads = self._kv_heads(first("num_key_value_heads", default=self.heads))
        self.ff = first("intermediate_size", "n_inner", "ffn_hidden_size", default=4 * self.width)
        keys = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
        self.eps = first(*keys, default=1e-5)
        rope = first("rope_parameters", default={})
        self.rope = rope.get("full_attention", rope)
        self.local_rope = rope.get("sliding_attention")
        self.rotated = int(self.head_dim * self.rope.get("partial_rotary_factor", 1.0))

    def _kv_heads(self, listed: int) -> int:
        if "multi_query" not in self.config:
            return self.heads if self.config.get("model_type") == "gpt_neox" else listed
        if self.config["new_decoder_architecture"]:
            return int(self.config["num_kv_heads"])
        return 1 if self.config["multi_query"] else self.heads


def gguf_metadata(tiny: TinyModel) -> dict[str, object]:
    arch, facts, config = gguf_architecture(tiny), Facts(tiny.config), tiny.config
    keys: dict[str, object] = {
        "block_count": facts.layers,
        "context_length": facts.context,
        "embedding_length": facts.width,
        "feed_forward_length": facts.ff,
        "attention.head_count": facts.heads,
        "attention.head_count_kv": facts.kv_heads,
        f"attention.layer_norm_{'' if arch in LAYER_NORM else 'rms_'}epsilon": facts.eps,
        "vocab_size": config["vocab_size"],
    }
    if facts.head_dim != facts.width // facts.heads or arch.startswith("gemma"):
        keys |= {"attention.key_length": facts.head_dim, "attention.value_length": facts.head_dim}
    if arch not in ("gpt2", "mpt"):
        keys |= {"rope.dimension_count": facts.rotated, "rope.freq_base": float(facts.rope.get("rope_theta", 10000.0))}
        keys |= _scaling(facts)
    keys |= _own_keys(arch, facts)
    return {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in keys.items()}}


def _scaling(facts: Facts) -> dict[str, object]:
    rope, original = facts.rope, facts.rope.get("original_max_position_embeddings")
    if rope.get("rope_type") == "yarn":
        return {"rope.scaling.type": "yarn", "rope.scaling.factor": rope["factor"],
                "rope.scaling.original_context_length": original}  # fmt: skip
    if rope.get("rope_type") == "longrope":
        factor = math.sqrt(1 + math.log(facts.context / original) / math.log(original))
        return {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": factor}
    return {}


def _own_keys(arch: str, facts: Facts) -> dict[str, object]:
    config = facts.config
    keys: dict[str, object] = {}
    if config.get("sliding_window") and arch != "qwen2":
        keys["attention.sliding_window"] = config["sliding_window"]
        if arch == "exaone4":
            keys["attention.sliding_window_pattern"] = [kind == "sliding_attention" for kind in config["layer_types"]]
    renamed = {
        "attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping",
        "logit_scale": "logit_scale", "logits_scaling": "logit_scale", "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale", "attention_multiplier": "attention.scale",
        "clip_qkv": "attention.clamp_kqv",
    }  # fmt: skip
    places = {**config, **config.get("attn_config", {})}
    keys |= {new: float(places[old]) for old, new in renamed.items() if places.get(old) is not None}
    if arch == "mpt":
        keys["attention.max_alibi_bias"] = float(config["attn_config"]["alibi_bias_max"])
    if arch == "gptneox":
        keys["use_parallel_residual"] = config["use_parallel_residual"]
    if facts.local_rope:
        keys["rope.freq_base_swa"] = float(facts.local_rope["rope_theta"])
    return keys


def gguf_tensors(tiny: TinyModel, seed: int = 0) -> Arrays:
    arch, facts = gguf_architecture(tiny), Facts(tiny.config)
    ids = {name: id_ for id_, name in MODEL_ARCH_NAMES.items()}
    names = get_tensor_name_map(ids[arch], facts.layers)
    found: Arrays = {}
    for name, array in _rearranged(arch, facts, tiny.hf_tensors(seed)).items():
        new = names.get_name(name, (".weight", ".bias"))
        assert new is not None, f"gguf knows no {name}"
        found[new] = array
    if facts.rope.get("rope_type") == "longrope":
        found["rope_factors_long.weight"] = np.array(facts.rope["long_factor"], np.float32)
        found["rope_factors_short.weight"] = np.array(facts.rope["short_factor"], np.float32)
    return found


def _rearranged(arch: str, facts: Facts, arrays: Arrays) -> Arrays:
    steps: dict[str, Callable[[Facts, Arrays], Arrays]] = {
        "falcon": _ungrouped, "gptneox": _ungrouped, "internlm2": _split_groups, "stablelm": _stacked,
        "gpt2": _transposed, "gemma": _offset, "gemma2": _offset, "gemma3": _offset,
    }  # fmt: skip
    if arch in steps:
        arrays = steps[arch](facts, arrays)
    return _permuted(facts, arrays) if arch in PERMUTED else arrays


def _ungrouped(facts: Facts, arrays: Arrays) -> Arrays:
    """Rows of the fused matrix: all of q, all of k, all of v."""
    return {name: np.concatenate(_groups(facts, array)) if "query_key_value" in name else array
            for name, array in arrays.items()}  # fmt: skip


def _groups(facts: Facts, array: F32Array) -> list[F32Array]:
    queries = facts.heads // facts.kv_heads
    heads = array.reshape(facts.kv_heads, queries + 2, facts.head_dim, *array.shape[1:])
    parts = heads[:, :queries], heads[:, queries], heads[:, queries + 1]
    return [part.reshape(-1, *array.shape[1:]) for part in parts]


def _split_groups(facts: Facts, arrays: Arrays) -> Arrays:
    found: Arrays = {}
    for name, array in arrays.items():
        if "wqkv" in name:
            parts = zip(("wq", "wk", "wv"), _groups(facts, array), strict=True)
            found |= {name.replace("wqkv", part): np.ascontiguousarray(rows) for part, rows in parts}
        else:
            found[name] = array
    return found


def _stacked(facts: Facts, arrays: Arrays) -> Arrays:
    """StableLM's norms of single heads."""
    found = {name: array for name, array in arrays.items() if ".norms." not in name}
    for kind, heads in (("q_layernorm", facts.heads), ("k_layernorm", facts.kv_heads)):
        for layer in range(facts.layers):
            prefix = f"model.layers.{layer}.self_attn.{kind}"
            if f"{prefix}.norms.0.weight" in arrays:
                found[f"{prefix}.weight"] = np.stack([arrays[f"{prefix}.norms.{i}.weight"] for i in range(heads)])
    return found


def _transposed(facts: Facts, arrays: Arrays) -> Arrays:
    return {
        name: np.ascontiguousarray(array.T) if array.ndim == 2 and ".h." in name else array
        for name, array in arrays.items()
    }


def _offset(facts: Facts, arrays: Arrays) -> Arrays:
    return {name: array + np.float32(1) if "norm" in name else array for name, array in arrays.items()}


def _permuted(facts: Facts, arrays: Arrays) -> Arrays:
    """q and k from rotary halves to interleaved pairs."""
    found: Arrays = {}
    for name, array in arrays.items():
        part = name.split(".")[-2]
        heads = {"q_proj": facts.heads, "wq": facts.heads, "k_proj": facts.kv_heads, "wk": facts.kv_heads}.get(part)
        if heads is not None:
            halves = array.reshape(heads, 2, facts.head_dim // 2, *array.shape[1:])
            array = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))
        found[name] = array
    return found


def save_gguf(tiny: TinyModel, path: Path, seed: int = 0) -> Path:
    """Without a tokenizer; llama.cpp opens it."""
    metadata = gguf_metadata(tiny)
    writer = GGUFWriter(path, str(metadata.pop("general.architecture")))
    writer.add_string("tokenizer.ggml.model", "no_vocab")
    for key, value in metadata.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case list():
                writer.add_array(key, value)
            case _:
                writer.add_string(key, str(value))
    for name, array in gguf_tensors(tiny, seed).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
