"""The Llama family out of real files, written with the containers' own packages; and out of transformers' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plait.errors import ModelFileError
from plait.formats.open import open_model
from plait.models.registry import LoadedModel, load_model
from plait.ops.api import KVConfig
from plait.ops.reference import ReferenceBackend
from support.steps import Chunk, Driver
from support.tiny_llama import PROMPTS, VARIANTS, TinyLlama

KV = KVConfig(16, (16,), "f32")


def logits(model: LoadedModel) -> np.ndarray:
    driver = Driver(ReferenceBackend().compile(model.program, KV), KV)
    return driver.step({"a": Chunk.every(PROMPTS["a"])})["a"]


@pytest.mark.parametrize("container", ["gguf", "safetensors"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_is_the_same_model_as_in_memory(variant: str, container: str, tmp_path: Path) -> None:
    tiny = VARIANTS[variant]
    from_file = load_model(open_model(tiny.save(container, tmp_path)))
    in_memory = load_model(tiny.source(container))
    assert from_file.kv == in_memory.kv
    assert (from_file.n_parameters, from_file.weight_bytes) == (in_memory.n_parameters, in_memory.weight_bytes)
    # GGUF keeps eps and theta as float32.
    np.testing.assert_allclose(logits(from_file), logits(in_memory), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("container", ["gguf", "safetensors"])
def test_a_layer_too_few_is_named(container: str, tmp_path: Path) -> None:
    class ShortLlama(TinyLlama):
        def hf_tensors(self, seed: int = 0) -> dict[str, np.ndarray]:
            return {name: array for name, array in super().hf_tensors(seed).items() if ".1." not in name}

    path = ShortLlama().save(container, tmp_path)
    with pytest.raises(ModelFileError, match=r"attn_norm|input_layernorm") as caught:
        load_model(open_model(path))
    assert str(path) in str(caught.value)


@pytest.mark.parity
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_transformers_saves(variant: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from support.transformers_oracle import transformers_logits, transformers_model

    tiny = VARIANTS[variant]
    transformers_model(tiny).save_pretrained(tmp_path)
    want = transformers_logits(tiny, [PROMPTS["a"]])[0]
    got = logits(load_model(open_model(tmp_path)))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5 * np.abs(want).max())
