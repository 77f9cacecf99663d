"""Makes tests/golden/tiny_models.json and tiny_logits.npz: configs, shapes and logits of tiny models by transformers.

Needs torch and transformers: python tests/golden/make_tiny_models.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import transformers

from support.tiny_models import GOLDEN, GOLDEN_ROWS, PROMPTS, TinyModel
from support.transformers_oracle import tiny_logits

BASE: dict[str, Any] = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
                        "pad_token_id": None}  # fmt: skip
HEAD12: dict[str, Any] = {"head_dim": 12}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.4], "long_factor": [1.0, 2.0, 4.0, 8.0],
            "rope_theta": 10000.0}  # fmt: skip
SLIDE, FULL = "sliding_attention", "full_attention"
GEMMA = {**HEAD12, "hidden_activation": "gelu_pytorch_tanh"}
FALCON = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
          "max_position_embeddings": 128}  # fmt: skip

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", BASE),
    "llama-yarn": ("LlamaForCausalLM", {**BASE, "rope_parameters": YARN}),
    "llama-dynamic": (
        "LlamaForCausalLM",
        {**BASE, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}},
    ),
    "mistral": ("MistralForCausalLM", {**BASE, "sliding_window": 8}),
    "mistral-nemo": ("MistralForCausalLM", {**BASE, **HEAD12, "sliding_window": None}),
    "ministral": ("MinistralForCausalLM", {**BASE, **HEAD12, "sliding_window": 8, "layer_types": [SLIDE, FULL]}),
    "smollm3": ("SmolLM3ForCausalLM", {**BASE, "num_hidden_layers": 4, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", BASE),
    "qwen2-window": (
        "Qwen2ForCausalLM",
        {**BASE, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "qwen2-yarn": ("Qwen2ForCausalLM", {**BASE, "rope_parameters": YARN}),
    "qwen3": ("Qwen3ForCausalLM", {**BASE, **HEAD12, "tie_word_embeddings": True}),
    "gemma": ("GemmaForCausalLM", {**BASE, **HEAD12}),
    "gemma2": ("Gemma2ForCausalLM", {**BASE, **GEMMA, "query_pre_attn_scalar": 12, "sliding_window": 8}),
    "gemma3": (
        "Gemma3ForCausalLM",
        {**BASE, **GEMMA, "query_pre_attn_scalar": 12, "sliding_window": 8, "num_hidden_layers": 6},
    ),
    "phi": ("PhiForCausalLM", {**BASE, "num_key_value_heads": 4}),
    "phi-qk-norm": ("PhiForCausalLM", {**BASE, "qk_layernorm": True}),
    "phi3": ("Phi3ForCausalLM", {**BASE}),
    "phi3-window": ("Phi3ForCausalLM", {**BASE, "sliding_window": 8}),
    "phi3-longrope": (
        "Phi3ForCausalLM",
        {**BASE, "original_max_position_embeddings": 32, "rope_parameters": LONGROPE},
    ),
    "phi4-mini": (
        "Phi3ForCausalLM",
        {**BASE, "tie_word_embeddings": True,
         "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}},
    ),
    "starcoder2": ("Starcoder2ForCausalLM", BASE),
    "starcoder2-window": ("Starcoder2ForCausalLM", {**BASE, "sliding_window": 8}),
    "falcon-7b": ("FalconForCausalLM", FALCON),
    "falcon-40b": ("FalconForCausalLM", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-11b": (
        "FalconForCausalLM",
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    ),
    "falcon-rw": (
        "FalconForCausalLM",
        {**FALCON, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    ),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 40, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "gpt-neox": ("GPTNeoXForCausalLM", BASE),
    "gpt-neox-serial": ("GPTNeoXForCausalLM", {**BASE, "use_parallel_residual": False}),
    "mpt": (
        "MptForCausalLM",
        {"vocab_size": 40, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    ),
    "mpt-clip": (
        "MptForCausalLM",
        {"vocab_size": 40, "d_model": 48, "n_heads": 6, "n_layers": 2, "max_seq_len": 128,
         "attn_config": {"clip_qkv": 1.0, "alibi_bias_max": 8}},
    ),
    "command-r": ("CohereForCausalLM", BASE),
    "command-r-plus": ("CohereForCausalLM", {**BASE, "use_qk_norm": True}),
    "cohere2": ("Cohere2ForCausalLM", {**BASE, "num_hidden_layers": 4, "sliding_window": 8}),
    "olmo": ("OlmoForCausalLM", {**BASE, "num_key_value_heads": 4}),
    "olmo-clip": ("OlmoForCausalLM", {**BASE, "clip_qkv": 1.0}),
    "olmo2": ("Olmo2ForCausalLM", {**BASE}),
    "stablelm": ("StableLmForCausalLM", {**BASE, "use_qkv_bias": True}),
    "stablelm2-12b": ("StableLmForCausalLM", {**BASE, "use_parallel_residual": True, "qk_layernorm": True}),
    "granite": (
        "GraniteForCausalLM",
        {**BASE, "embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.4,
         "logits_scaling": 5.0},
    ),
    "exaone4": ("Exaone4ForCausalLM", {**BASE, "sliding_window": None, "layer_types": [FULL, FULL]}),
    "exaone4-window": ("Exaone4ForCausalLM", {**BASE, "sliding_window": 8, "num_hidden_layers": 4}),
    "glm": ("GlmForCausalLM", {**BASE, "head_dim": 8}),
    "glm4": ("Glm4ForCausalLM", {**BASE, "head_dim": 8, "attention_bias": True}),
}  # fmt: skip

# Families that transformers computes as Llama, with other names in the file.
RENAMED = {
    "internlm2": ("InternLM2ForCausalLM", {}),
    "internlm3": ("InternLM3ForCausalLM", {}),
    "exaone": ("ExaoneForCausalLM", {"num_layers": 2, "layer_norm_epsilon": 1e-6, "activation_function": "silu"}),
}


def variant(name: str, class_name: str, changes: dict[str, Any]) -> TinyModel:
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(**changes)
    config.architectures = [class_name]
    model = model_class(config)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    return TinyModel(name, json.loads(config.to_json_string()), shapes)


def renamed_variant(name: str, architecture: str, changes: dict[str, Any]) -> TinyModel:
    llama = variant(name, "LlamaForCausalLM", BASE)
    return TinyModel(name, {**llama.config, **changes, "architectures": [architecture]}, llama.shapes, name)


def main() -> None:
    models = [variant(name, *of) for name, of in VARIANTS.items()]
    models += [renamed_variant(name, *of) for name, of in RENAMED.items()]
    logits = {model.name: tiny_logits(model, [PROMPTS["a"]])[0][list(GOLDEN_ROWS)] for model in models}
    np.savez_compressed(GOLDEN / "tiny_logits.npz", **logits)
    entries = [
        f"{json.dumps(m.name)}: "
        + json.dumps({"renames": m.renames, "config": m.config, "shapes": m.shapes}, sort_keys=True)
        for m in models
    ]
    (GOLDEN / "tiny_models.json").write_text("{\n" + ",\n".join(entries) + "\n}\n")


if __name__ == "__main__":
    main()
