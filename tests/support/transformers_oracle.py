"""Logits of a tiny model as transformers computes them: float32, eager attention, one prompt at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import transformers

from plait.formats.tensor import F32Array
from support.tiny_llama import TinyLlama
from support.tiny_models import TinyModel


def transformers_model(tiny: TinyLlama, seed: int = 0) -> transformers.PreTrainedModel:
    config = dict(tiny.hf_config())
    model_class = getattr(transformers, tiny.hf_class)
    model = model_class(model_class.config_class(**config, attn_implementation="eager")).float().eval()
    state = {name: torch.from_numpy(array) for name, array in tiny.hf_tensors(seed).items()}
    if tiny.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model


def transformers_hidden(tiny: TinyLlama, prompts: Sequence[Sequence[int]], seed: int = 0) -> list[F32Array]:
    """For each prompt the last hidden states, after the final norm, (tokens, width)."""
    model = transformers_model(tiny, seed).model
    with torch.no_grad():
        results = [model(torch.tensor([list(prompt)])).last_hidden_state[0].numpy() for prompt in prompts]
    return [np.ascontiguousarray(hidden, np.float32) for hidden in results]


def transformers_logits(tiny: TinyLlama, prompts: Sequence[Sequence[int]], seed: int = 0) -> list[F32Array]:
    """For each prompt (tokens, vocabulary)."""
    model = transformers_model(tiny, seed)
    with torch.no_grad():
        results = [model(torch.tensor([list(prompt)])).logits[0].numpy() for prompt in prompts]
    return [np.ascontiguousarray(logits, np.float32) for logits in results]


def tiny_transformers(tiny: TinyModel, seed: int = 0) -> transformers.PreTrainedModel:
    name = "LlamaForCausalLM" if tiny.renames else tiny.architecture
    model_class = getattr(transformers, name)
    config = {key: value for key, value in tiny.config.items() if key not in ("architectures", "model_type")}
    # transformers 5's eager Falcon adds the slopes twice, to the mask and to the scores.
    attention = "sdpa" if config.get("alibi") else "eager"
    model = model_class(model_class.config_class(**config, attn_implementation=attention)).float().eval()
    state = {name: torch.from_numpy(array) for name, array in tiny.oracle_tensors(seed).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    model.tie_weights()
    return model


def tiny_logits(tiny: TinyModel, prompts: Sequence[Sequence[int]], seed: int = 0) -> list[F32Array]:
    """For each prompt (tokens, vocabulary)."""
    model = tiny_transformers(tiny, seed)
    with torch.no_grad():
        results = [model(torch.tensor([list(prompt)]), use_cache=False).logits[0].numpy() for prompt in prompts]
    return [np.ascontiguousarray(logits, np.float32) for logits in results]
