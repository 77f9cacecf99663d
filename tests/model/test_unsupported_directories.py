"""Hugging Face directories that Plait does not run: one sentence on the command line, with what is nearest."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from plait.cli.main import main
from support.tiny_models import tiny_models


def error_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    args = ["bench", "-m", str(folder), "-npp", "4", "-ntg", "1", "-npl", "1", "--device", "cpu"]
    assert main(args) == 1
    error = capsys.readouterr().err
    assert error.startswith("plait: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("name", "nearest"), [("LlamaMoeForCausalLM", "LlamaForCausalLM"), ("Qwen3NextForCausalLM", "Qwen3ForCausalLM")]
)
def test_architectures(name: str, nearest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = tiny_models()["llama"]
    tiny.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**tiny.config, "architectures": [name]}))
    error = error_of(tmp_path, capsys)
    assert f"'{name}' is not supported; the nearest that are: " in error
    assert nearest in error


def test_types_of_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = tiny_models()["llama"]
    tensors: dict[str, np.ndarray] = dict(tiny.hf_tensors())
    name = "model.layers.0.mlp.down_proj.weight"
    save_file(
        {**tensors, name: tensors[name].astype(ml_dtypes.float8_e4m3fn)}, tiny.save(tmp_path) / "model.safetensors"
    )
    error = error_of(tmp_path, capsys)
    assert name in error
    assert "F8_E4M3, which the CPU kernels cannot read; they read F32, F16, BF16, Q8_0" in error
