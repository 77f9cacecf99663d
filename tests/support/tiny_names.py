"""Weights of Llama under the names, and in the order of rows, of families that transformers has no code for."""

from __future__ import annotations

from typing import Any

import numpy as np

from plait.formats.tensor import F32Array

Arrays = dict[str, F32Array]

INTERNLM2 = {
    "model.embed_tokens": "model.tok_embeddings",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}
EXAONE = {
    "model.embed_tokens": "transformer.wte",
    "model.layers": "transformer.h",
    "model.norm": "transformer.ln_f",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.attention.out_proj",
    "self_attn": "attn.attention",
    "mlp.gate_proj": "mlp.c_fc_0",
    "mlp.up_proj": "mlp.c_fc_1",
    "mlp.down_proj": "mlp.c_proj",
}


def renamed(family: str, arrays: Arrays, config: dict[str, Any]) -> Arrays:
    if family == "internlm2":
        return _replaced(_fused_by_group(arrays, config), INTERNLM2)
    return _replaced(arrays, EXAONE) if family == "exaone" else arrays


def _replaced(arrays: Arrays, names: dict[str, str]) -> Arrays:
    def new(name: str) -> str:
        for old, other in names.items():
            name = name.replace(old, other)
        return name

    return {new(name): array for name, array in arrays.items()}


def _fused_by_group(arrays: Arrays, config: dict[str, Any]) -> Arrays:
    """For each KV head: its query heads, k, v."""
    kv_heads, d = config["num_key_value_heads"], config["hidden_size"]
    fused = {
        name: array for name, array in arrays.items() if "_proj" not in name or "self_attn.o" in name or "mlp" in name
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        parts = [arrays[f"{prefix}self_attn.{part}_proj.weight"].reshape(kv_heads, -1, d) for part in "qkv"]
        fused[f"{prefix}attention.wqkv.weight"] = np.ascontiguousarray(np.concatenate(parts, 1).reshape(-1, d))
    return fused
