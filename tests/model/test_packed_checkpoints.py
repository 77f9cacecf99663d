"""AWQ, GPTQ and compressed-tensors checkpoints: the model they stand for, on every backend, in blocks where that loses
nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plait.cli.main import main
from plait.formats.integer_tensor import IntegerTensor
from plait.formats.open import open_model
from plait.formats.quant import dequantize
from plait.formats.tensor import F32Array, ModelSource, raw_rows
from plait.models.registry import load_model
from plait.ops.api import KVConfig
from support.backends import make_backend, other_paths
from support.packed_checkpoints import KINDS, Packed
from support.schedules import chunked, decoded, whole
from support.steps import Driver
from support.tiny_llama import PROMPTS

KV = KVConfig(16, (16,), "f16")
Q = "model.layers.0.self_attn.q_proj.weight"
FORMATS = {
    "awq": "Q5_0", "awq-symmetric": "Q4_0", "gptq": "Q4_0", "gptq-asymmetric": "Q5_0", "gptq-v2": "Q5_0",
    "gptq-2-bits": "Q4_0", "gptq-8-bits": "Q8_0", "gptq-order": "F16", "gptq-8-bits-asymmetric": "F16",
    "packed-4": "Q4_0", "packed-4-asymmetric": "Q5_0", "packed-4-channel": "Q5_0", "packed-4-order": "F16",
    "packed-8": "Q8_0", "w8a8": "Q8_0", "small-groups": "F16",
}  # fmt: skip
ROUNDED = {"w8a8", *(name for name, kept in FORMATS.items() if kept == "F16")}
"""Their scales, or their weights, are not exactly halves."""


def driver(source: ModelSource, backend: str) -> Driver:
    return Driver(make_backend(backend).compile(load_model(source).program, KV), KV)


def logits(source: ModelSource, backend: str) -> dict[str, F32Array]:
    return dict(whole(driver(source, backend), PROMPTS))


@pytest.mark.parametrize("name", KINDS)
def test_tensors_are_what_the_format_says(name: str, tmp_path: Path) -> None:
    packed = Packed(KINDS[name])
    source = open_model(packed.save(tmp_path))
    assert sorted(source.tensors) == sorted(packed.tiny.hf_tensors())
    for tensor_name, matrix in packed.matrices.items():
        tensor, want = source.tensors[tensor_name], matrix.floats()
        assert tensor.format == FORMATS[name]
        np.testing.assert_array_equal(tensor.numpy(), want)
        blocks = dequantize(tensor.raw(), tensor.format)
        if name in ROUNDED:
            np.testing.assert_allclose(blocks, want, rtol=2.0**-11)
        else:
            np.testing.assert_array_equal(blocks, want)


@pytest.mark.parametrize("name", KINDS)
def test_the_reference_gives_the_logits_of_the_float_model(name: str, tmp_path: Path) -> None:
    packed = Packed(KINDS[name])
    want = logits(packed.floats(), "reference")
    for prompt, got in logits(open_model(packed.save(tmp_path)), "reference").items():
        np.testing.assert_array_equal(got, want[prompt])


@pytest.mark.parametrize("name", KINDS)
def test_the_cpu_is_close_and_batching_changes_no_bit(name: str, tmp_path: Path) -> None:
    packed = Packed(KINDS[name])
    source = open_model(packed.save(tmp_path))
    alone, want = logits(source, "cpu-1"), logits(packed.floats(), "reference")
    for run in (chunked, decoded):
        for prompt, got in run(driver(source, "cpu-2"), PROMPTS).items():
            np.testing.assert_array_equal(got, alone[prompt])
    error = np.linalg.norm(alone["a"] - want["a"]) / np.linalg.norm(want["a"])
    assert error < (2e-3 if FORMATS[name] == "F16" else 0.04)


@pytest.mark.parametrize("path", other_paths())
@pytest.mark.parametrize("name", ["awq", "gptq", "w8a8"])
def test_every_simd_path_gives_the_same_bits(name: str, path: str, tmp_path: Path) -> None:
    source = open_model(Packed(KINDS[name]).save(tmp_path))
    want = logits(source, "cpu-1")
    for prompt, got in logits(source, f"cpu-2:{path}").items():
        np.testing.assert_array_equal(got, want[prompt])


def test_rows_of_a_matrix_are_its_rows(tmp_path: Path) -> None:
    """What files that fuse q, k and v need: any range, whatever a word holds."""
    for name in ("awq", "gptq-asymmetric", "packed-4-asymmetric"):
        tensor = open_model(Packed(KINDS[name]).save(tmp_path / name)).tensors[Q]
        part = tensor.rows(slice(13, 37), "part")  # type: ignore[attr-defined]
        assert part.shape == (24, 64)
        np.testing.assert_array_equal(part.numpy(), tensor.numpy()[13:37])
        np.testing.assert_array_equal(part.raw(), tensor.raw()[13:37])
        np.testing.assert_array_equal(raw_rows(tensor, slice(8, 9)), tensor.raw()[8:9])


def test_what_cannot_be_kept_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = open_model(Packed(KINDS["gptq-order"]).save(tmp_path))
    driver(source, "cpu-1")
    assert len(caplog.records) == 1
    assert "out of order (desc_act)" in caplog.text


def test_inspect_reads_no_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Packed(KINDS["awq"]).save(tmp_path)
    monkeypatch.setattr(IntegerTensor, "raw", lambda self: pytest.fail("was read"))
    assert main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "Q5_0" in shown
    assert "int8, repacked" in shown
