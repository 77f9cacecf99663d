"""`plait quantize` from Hugging Face directories: the GGUF file is the same model, family by family, and what GGUF has
no words for is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from plait.cli.main import main
from plait.formats.open import open_model
from plait.models.gguf_export import EXPORTS, export_model
from plait.models.registry import load_model
from support.backends import make_backend
from support.families import SHORT, new_driver
from support.packed_checkpoints import KINDS, Packed
from support.steps import Chunk
from support.tiny_gguf import gguf_metadata, gguf_tensors
from support.tiny_models import HF_ONLY, PROMPTS, tiny_models

REFUSED = {
    "qwen2-window": "sliding windows",
    "ministral": "plait quantize does not write MinistralForCausalLM",
    "phi-qk-norm": "qk_norm",
}
WRITTEN = [
    name for name, tiny in tiny_models().items() if tiny.architecture in EXPORTS and name not in (*REFUSED, *HF_ONLY)
]


def logits(path: Path) -> np.ndarray:
    driver = new_driver(load_model(open_model(path), SHORT), make_backend("reference"))
    return driver.step({"a": Chunk.every(PROMPTS["a"])})["a"]


@pytest.mark.parametrize("name", WRITTEN)
def test_the_file_is_the_same_model(name: str, tmp_path: Path) -> None:
    folder, out = tmp_path / name, tmp_path / "out.gguf"
    folder.mkdir()
    tiny_models()[name].save(folder)
    assert main(["quantize", str(folder), str(out), "--type", "F32", "-t", "1"]) == 0
    np.testing.assert_allclose(logits(out), logits(folder), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WRITTEN)
def test_keys_and_tensors_are_those_of_llama_cpp(name: str) -> None:
    """Against the tests' own writer, whose files llama.cpp computes alike (benchmarks/results)."""
    tiny = tiny_models()[name]
    exported, keys, tensors = export_model(tiny.source("safetensors")), gguf_metadata(tiny), gguf_tensors(tiny)
    assert sorted(exported.tensors) == sorted(tensors)
    for tensor_name, want in tensors.items():
        np.testing.assert_allclose(exported.tensors[tensor_name].numpy(), want, rtol=1e-6)
    for key, value in keys.items():
        if key.endswith(("sliding_window", "freq_base_swa")) or key not in exported.metadata:
            continue
        assert exported.metadata[key] == pytest.approx(value), key


@pytest.mark.parametrize("name", REFUSED)
def test_what_gguf_cannot_say_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_models()[name].save(tmp_path)
    assert main(["quantize", str(tmp_path), str(tmp_path / "out.gguf"), "--type", "F16"]) == 1
    error = capsys.readouterr().err
    assert REFUSED[name] in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.gguf").exists()


def test_types_are_those_of_the_mix(tmp_path: Path) -> None:
    tiny_models()["llama"].save(tmp_path)
    assert main(["quantize", str(tmp_path), str(tmp_path / "out.gguf"), "--type", "Q8_0"]) == 0
    source = open_model(tmp_path / "out.gguf")
    assert {t.format for n, t in source.tensors.items() if "norm" in n} == {"F32"}
    assert source.metadata["general.file_type"] == 7
    assert source.metadata["general.architecture"] == "llama"
    assert source.metadata["tokenizer.ggml.model"] == "no_vocab"


def test_packed_checkpoints_need_leave(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Packed(KINDS["awq"]).save(tmp_path)
    args = ["quantize", str(tmp_path), str(tmp_path / "out.gguf"), "--type", "Q8_0"]
    assert main(args) == 1
    assert "is Q5_0 already" in capsys.readouterr().err
    assert main([*args, "--allow-requantize"]) == 0
    want, got = logits(tmp_path), logits(tmp_path / "out.gguf")
    assert np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want)


def test_a_tensor_without_a_place_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = tiny_models()["llama"]
    tiny.save(tmp_path)
    config = {**tiny.config, "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["quantize", str(tmp_path), str(tmp_path / "out.gguf"), "--type", "F16"]) == 1
    assert "no place in this architecture" in capsys.readouterr().err
