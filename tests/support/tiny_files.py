"""The tiny models as other files hold them: config.json as transformers 4 wrote it, checkpoints of the bare model, a
decoder inside a model that also sees, and second names of an architecture. All are the same model as before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from support.tensors import ArrayTensor, MemorySource
from support.tiny_models import tiny_models

Config = dict[str, Any]


def _old_rope(config: Config) -> Config:
    """rope_theta beside rope_scaling, and the rotated share by itself."""
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else {"type": rope.pop("rope_type"), **rope}
    return config


def _old_gemma3(config: Config) -> Config:
    rope = config.pop("rope_parameters")
    config |= {
        "rope_theta": rope["full_attention"]["rope_theta"],
        "rope_local_base_freq": rope["sliding_attention"]["rope_theta"],
        "sliding_window_pattern": 6,
    }
    del config["layer_types"]
    return config


def _old_neox(config: Config) -> Config:
    rope = config.pop("rope_parameters")
    return config | {"rotary_pct": rope["partial_rotary_factor"], "rotary_emb_base": 10000}


def _old_layers(config: Config) -> Config:
    config.pop("layer_types")
    return _old_rope(config)


def _old_smollm3(config: Config) -> Config:
    config.pop("no_rope_layers")
    return _old_layers(config)


OLD_CONFIGS: dict[str, Callable[[Config], Config]] = {
    "gemma3": _old_gemma3, "gpt-neox": _old_neox, "cohere2": _old_layers, "gemma2": _old_layers,
    "smollm3": _old_smollm3, "phi3-longrope": _old_rope, "phi4-mini": _old_rope, "stablelm": _old_rope,
    "glm4": _old_rope, "qwen2-yarn": _old_rope, "llama-yarn": _old_rope, "phi": _old_rope, "mistral": _old_rope,
}  # fmt: skip


def old_config(name: str) -> MemorySource:
    source = tiny_models()[name].source("safetensors")
    return replace(source, metadata=OLD_CONFIGS[name](dict(source.metadata)))


def _renamed(source: MemorySource, old: str, new: str) -> MemorySource:
    tensors = {new + name.removeprefix(old): tensor for name, tensor in source.tensors.items() if name.startswith(old)}
    rest = {name: tensor for name, tensor in source.tensors.items() if not name.startswith(old)}
    return replace(source, tensors={**tensors, **rest})


def _seeing(layout: str) -> MemorySource:
    """Gemma 3 with the part that sees, which is left alone."""
    source = _renamed(tiny_models()["gemma3"].source("safetensors"), "model.", layout)
    eye = ArrayTensor("vision_tower.patch.weight", np.zeros((2, 2), np.float32))
    metadata = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": source.metadata}
    return replace(source, metadata=metadata, tensors={**source.tensors, eye.name: eye})


def _named(name: str, architecture: str) -> MemorySource:
    source = tiny_models()[name].source("safetensors")
    return replace(source, metadata={**source.metadata, "architectures": [architecture]})


def _mistral3() -> MemorySource:
    source = tiny_models()["mistral-nemo"].source("gguf")
    metadata = {key.replace("llama.", "mistral3."): value for key, value in source.metadata.items()}
    return replace(source, metadata={**metadata, "general.architecture": "mistral3"})


OTHER_FILES: dict[str, tuple[str, Callable[[], MemorySource]]] = {
    "Gemma3ForConditionalGeneration": ("gemma3", lambda: _seeing("model.language_model.")),
    "Gemma3ForConditionalGeneration, older": ("gemma3", lambda: _seeing("language_model.model.")),
    "MPTForCausalLM": ("mpt", lambda: _named("mpt", "MPTForCausalLM")),
    "Qwen3ForCausalLM, bare": ("qwen3", lambda: _renamed(tiny_models()["qwen3"].source("safetensors"), "model.", "")),
    "GPT2LMHeadModel, bare": (
        "gpt2",
        lambda: _renamed(tiny_models()["gpt2"].source("safetensors"), "transformer.", ""),
    ),
    "GPTNeoXForCausalLM, older": (
        "gpt-neox",
        lambda: _renamed(tiny_models()["gpt-neox"].source("safetensors"), "lm_head.", "embed_out."),
    ),
    "mistral3": ("mistral-nemo", _mistral3),
}
"""By what is special: which tiny model it is, and the file."""
