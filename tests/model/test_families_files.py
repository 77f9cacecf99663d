"""Files that hold a family otherwise than transformers 5 writes it: the same logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from plait.errors import UnsupportedModelError
from plait.models.hf_families import gemma3_from_hf
from plait.models.registry import load_model
from plait.ops.reference import ReferenceBackend
from support.families import SHORT, close, load_tiny, new_driver
from support.steps import Chunk
from support.tensors import MemorySource
from support.tiny_files import OLD_CONFIGS, OTHER_FILES, old_config
from support.tiny_models import GOLDEN_ROWS, PROMPTS, golden_logits, tiny_models


def check(source: MemorySource, name: str) -> None:
    driver = new_driver(load_model(source, SHORT), ReferenceBackend())
    close(driver.step({"a": Chunk(PROMPTS["a"], GOLDEN_ROWS)})["a"], golden_logits(name))


@pytest.mark.parametrize("name", OLD_CONFIGS)
def test_configs_of_older_transformers(name: str) -> None:
    check(old_config(name), name)


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_other_names(kind: str) -> None:
    name, make = OTHER_FILES[kind]
    check(make(), name)


@pytest.mark.parametrize("container", ["safetensors", "gguf"])
def test_longrope_goes_by_the_context_asked_for(container: str) -> None:
    source = tiny_models()["phi3-longrope"].source(container)
    short, long, unsaid = (load_model(source, n_ctx).config for n_ctx in (32, 33, 0))
    assert long.rope == unsaid.rope != short.rope
    assert short.rope == long.short_rope


def test_fused_and_single_matrices_are_one_model() -> None:
    """GLM's GGUF files hold q, k and v apart or in one matrix."""
    source = tiny_models()["glm"].source("gguf")
    tensors = dict(source.tensors)
    for layer in range(2):
        for kind in ("weight", "bias"):
            parts = [tensors.pop(f"blk.{layer}.attn_{part}.{kind}") for part in "qkv"]
            name = f"blk.{layer}.attn_qkv.{kind}"
            tensors[name] = replace(parts[0], name=name, array=np.concatenate([part.numpy() for part in parts]))  # type: ignore[type-var]
    check(replace(source, tensors=tensors), "glm")


def test_ministral_3_with_scaled_queries_is_refused() -> None:
    source = OTHER_FILES["mistral3"][1]()
    source.metadata["mistral3.attention.temperature_scale"] = 0.1
    with pytest.raises(UnsupportedModelError, match="queries scaled by their position are not supported"):
        load_model(source)


def test_a_mixture_of_experts_is_refused_by_name() -> None:
    source = tiny_models()["qwen2"].source("gguf")
    source.metadata["qwen2.expert_count"] = 8
    with pytest.raises(UnsupportedModelError, match="this qwen2 is a mixture of experts"):
        load_model(source)


def test_gemma_3_leaves_out_what_it_has_in_common() -> None:
    """As the 4B model's config.json does."""
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}  # fmt: skip
    config = gemma3_from_hf(MemorySource({"text_config": text}))
    assert (config.n_heads, config.n_kv_heads, config.head_dim, config.vocab) == (8, 4, 256, 262208)
    assert config.ropes[5] is not None
    assert config.ropes[5].inv_freq[:2] == pytest.approx([1 / 8, 1e6 ** (-2 / 256) / 8])
    assert config.ropes[4] is not None
    assert config.ropes[4].inv_freq[:2] == pytest.approx([1, 1e4 ** (-2 / 256)])
    assert config.kv_shape().groups[0].layers == (5, 11, 17, 23, 29)


def test_a_window_counts_only_below_the_context() -> None:
    source = tiny_models()["gemma2"].source("safetensors")
    source.metadata["sliding_window"] = 128
    assert [group.window for group in load_model(source).kv.groups] == [None]
    assert [group.window for group in load_tiny("gemma2", "gguf").kv.groups] == [None, 8]
