"""Quantising: the quantisers' errors, the mixes, the writer against `gguf`, and the command's refusals."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import quantize as oracle_quantize

from plait.cli.main import main
from plait.errors import ModelFileError
from plait.formats import gguf_writer, requantize
from plait.formats.gguf_reader import read_gguf
from plait.formats.gguf_writer import TensorPlan, encode_u32, write_gguf
from plait.formats.mixes import MIXES, ModelFacts, chosen_format
from plait.formats.open import open_model
from plait.formats.quant import block_format, dequantize, quantize
from plait.formats.quant.search import scale_and_minimum

# Just above the relative RMS errors that ggml's own quantisers reach on such values.
GGML_ERRORS = {"Q4_K": 0.0725, "Q5_K": 0.0370, "Q6_K": 0.0180, "IQ4_NL": 0.0775}


def values(rows: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, width)) * rng.gamma(2, 0.02, (rows, 1))).astype(np.float32)


@pytest.mark.parametrize("name", ["Q4_1", "Q5_0", "Q5_1"])
def test_blocks_of_32_equal_the_reference_quantiser(name: str) -> None:
    x = values(64, 256)
    x[3] = 0
    x[4, 32:64] = 7.5
    expected = oracle_quantize(x, gguf.GGMLQuantizationType[name])
    assert np.array_equal(quantize(x, name), expected)


@pytest.mark.parametrize("name", sorted(GGML_ERRORS))
def test_searched_scales_are_as_good_as_the_reference_ones(name: str) -> None:
    x = values(512, 1024)
    rest = dequantize(quantize(x, name), name) - x
    assert np.sqrt((rest**2).mean() / (x**2).mean()) < GGML_ERRORS[name]


@pytest.mark.parametrize("name", sorted(GGML_ERRORS))
def test_quantising_what_was_quantised_changes_little(name: str) -> None:
    once = dequantize(quantize(values(16, 512), name), name)
    twice = dequantize(quantize(once, name), name)
    assert np.sqrt(((twice - once) ** 2).mean() / (once**2).mean()) < GGML_ERRORS[name]


@pytest.mark.parametrize("name", sorted(GGML_ERRORS))
@pytest.mark.parametrize("fill", [0.0, 1.0, -1.0, 1e-30, 6e4])
def test_constant_blocks(name: str, fill: float) -> None:
    x = np.full((2, 256), fill, np.float32)
    assert np.allclose(dequantize(quantize(x, name), name), x, rtol=0.04, atol=1e-7)


def test_search_beats_the_first_guess() -> None:
    x = values(256, 32, seed=3)
    scale, minimum = scale_and_minimum(x, 15, -1.0, 20)
    weight = np.sqrt((x**2).mean(axis=1, keepdims=True)) + np.abs(x)

    def error(s: np.ndarray, m: np.ndarray) -> float:
        q = np.rint((x + m[:, None]) / s[:, None]).clip(0, 15)
        return float((weight * (s[:, None] * q - m[:, None] - x) ** 2).sum())

    low = np.minimum(x.min(axis=1), 0)
    assert error(scale, minimum) < 0.9 * error((x.max(axis=1) - low) / 15, -low)
    assert (scale > 0).all()
    assert (minimum >= 0).all()


def formats_of(mix: str, names: list[str], width: int = 512, **facts: int) -> list[str | None]:
    known = ModelFacts(
        facts.get("n_layers", 16), facts.get("n_experts", 0), bool(facts.get("tied", 0)), facts.get("heads_per_kv", 1)
    )
    chosen = [chosen_format(name, (width, width), MIXES[mix], known) for name in names]
    return [None if one is None else one.name for one in chosen]


def test_mix_q4_k_m_gives_more_bits_to_some_layers() -> None:
    down = formats_of("Q4_K_M", [f"blk.{i}.ffn_down.weight" for i in range(16)])
    assert [i for i, name in enumerate(down) if name == "Q6_K"] == [0, 1, 4, 7, 10, 13, 14, 15]
    assert {name for i, name in enumerate(down) if i in (2, 3, 5)} == {"Q4_K"}
    assert formats_of("Q4_K_M", ["blk.2.attn_q.weight", "output.weight", "token_embd.weight"]) == [
        "Q4_K",
        "Q6_K",
        "Q4_K",
    ]
    assert formats_of("Q4_K_M", ["token_embd.weight"], tied=1) == ["Q6_K"]
    assert formats_of("Q8_0", ["output.weight"]) == ["Q8_0"]


def test_mix_q4_k_s_and_experts() -> None:
    names = ["blk.3.attn_v.weight", "blk.4.attn_v.weight", "blk.1.ffn_down.weight", "blk.2.ffn_down.weight"]
    assert formats_of("Q4_K_S", names) == ["Q5_K", "Q4_K", "Q5_K", "Q4_K"]
    assert formats_of("Q4_K_M", ["blk.3.attn_v.weight", "blk.3.attn_output.weight"], n_experts=8) == ["Q8_0", "Q5_K"]


def test_mix_iq4_nl_looks_at_the_heads() -> None:
    names = ["blk.9.attn_v.weight", "blk.1.ffn_down.weight", "blk.2.ffn_down.weight"]
    assert formats_of("IQ4_NL", names, heads_per_kv=4) == ["Q5_K", "Q5_K", "IQ4_NL"]
    assert formats_of("IQ4_NL", names, heads_per_kv=2) == ["IQ4_NL", "Q5_K", "IQ4_NL"]


def test_what_stays_and_what_falls_back() -> None:
    kept = ["blk.0.attn_norm.weight", "blk.0.ffn_gate_inp.weight", "blk.0.attn_q.bias"]
    assert formats_of("Q4_K_M", kept) == [None, None, None]
    assert formats_of("Q4_K_M", ["blk.2.attn_q.weight"], width=96) == ["Q5_0"]
    assert formats_of("Q6_K", ["blk.2.attn_q.weight"], width=96) == ["Q8_0"]
    assert formats_of("Q4_K_M", ["blk.2.attn_q.weight"], width=40) == ["F16"]


def make_model(path: Path, dtype: type = np.float32) -> dict[str, np.ndarray]:
    """A file with the keys and tensors of a small llama, written by the `gguf` package."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_uint64("test.wide", 1)
    writer.add_float64("test.double", 0.1)
    writer.add_bool("test.truth", True)
    writer.add_array("tokenizer.ggml.tokens", ["a", "é"])
    tensors = {"token_embd.weight": values(32, 256, 1), "blk.0.attn_q.weight": values(9000, 256, 2)}
    for name, data in tensors.items():
        writer.add_tensor(name, data.astype(dtype))
    writer.add_tensor("output_norm.weight", np.ones(256, np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return tensors


@pytest.mark.parametrize("kind", sorted(MIXES))
def test_round_trip(tmp_path: Path, kind: str) -> None:
    tensors = make_model(tmp_path / "in.gguf")
    assert main(["quantize", str(tmp_path / "in.gguf"), str(tmp_path / "out.gguf"), "--type", kind, "-t", "2"]) == 0
    ours, theirs = open_model(tmp_path / "out.gguf"), gguf.GGUFReader(tmp_path / "out.gguf")
    assert [t.name for t in theirs.tensors] == [*tensors, "output_norm.weight"]
    for read in theirs.tensors[:2]:
        name = ours.tensors[read.name].format
        assert read.tensor_type.name == name
        assert np.array_equal(np.asarray(read.data).view(np.uint8).ravel(), quantize(tensors[read.name], name).ravel())
    assert ours.metadata["general.file_type"] == MIXES[kind].file_type
    assert theirs.fields["test.wide"].types == [gguf.GGUFValueType.UINT64]
    assert theirs.fields["test.double"].contents() == 0.1
    assert theirs.fields["tokenizer.ggml.tokens"].contents() == ["a", "é"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.gguf", "out.gguf"]


def test_a_type_that_is_not_read_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requantize, "_PIECE_VALUES", 1000)  # several pieces, the last one ragged
    ids = np.arange(37 * 64, dtype=np.int32).reshape(37, 64)
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "llama")
    writer.add_tensor("ids", ids)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    assert main(["quantize", str(tmp_path / "in.gguf"), str(tmp_path / "out.gguf"), "--type", "Q8_0"]) == 0
    (copied,) = gguf.GGUFReader(tmp_path / "out.gguf").tensors
    assert np.array_equal(copied.data, ids)


def test_threads_do_not_change_the_file(tmp_path: Path) -> None:
    make_model(tmp_path / "in.gguf", np.float16)
    for threads in ("1", "5"):
        args = ["quantize", str(tmp_path / "in.gguf"), str(tmp_path / threads), "--type", "q4_k_m", "-t", threads]
        assert main(args) == 0
    assert (tmp_path / "1").read_bytes() == (tmp_path / "5").read_bytes()


def test_refuses_to_overwrite_without_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model(tmp_path / "in.gguf")
    (tmp_path / "out.gguf").write_bytes(b"old")
    args = ["quantize", str(tmp_path / "in.gguf"), str(tmp_path / "out.gguf"), "--type", "Q8_0"]
    assert main(args) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "out.gguf").read_bytes() == b"old"
    assert main([*args, "--force"]) == 0
    assert open_model(tmp_path / "out.gguf").tensors["blk.0.attn_q.weight"].format == "Q8_0"


def test_quantised_input_only_when_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model(tmp_path / "in.gguf")
    paths = [str(tmp_path / name) for name in ("in.gguf", "q8.gguf", "q4.gguf")]
    assert main(["quantize", *paths[:2], "--type", "Q8_0"]) == 0
    assert main(["quantize", *paths[1:], "--type", "Q4_0"]) == 1
    assert "is Q8_0 already" in capsys.readouterr().err
    assert not Path(paths[2]).exists()
    assert main(["quantize", *paths[1:], "--type", "Q4_0", "--allow-requantize"]) == 0


def test_a_value_that_is_not_finite_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "llama")
    writer.add_tensor("blk.0.attn_q.weight", np.full((2, 256), np.inf, np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    assert main(["quantize", str(tmp_path / "in.gguf"), str(tmp_path / "out.gguf"), "--type", "Q4_K_M"]) == 1
    assert "blk.0.attn_q.weight" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    plan = TensorPlan("t", (2, 4), block_format("F32"))
    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "out.gguf").write_bytes(b"old")
    with pytest.raises(ModelFileError, match="No space left"):
        write_gguf(tmp_path / "out.gguf", {"k": encode_u32(3)}, [plan], [np.zeros(32, np.uint8)])
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]
    assert (tmp_path / "out.gguf").read_bytes() == b"old"


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_writer, "_free_bytes", lambda directory: 10)
    plan = TensorPlan("t", (2, 4), block_format("F32"))
    with pytest.raises(ModelFileError, match="free"):
        write_gguf(tmp_path / "out.gguf", {}, [plan], [np.zeros(32, np.uint8)])
    assert not list(tmp_path.iterdir())


def test_written_header_reads_back(tmp_path: Path) -> None:
    plan = TensorPlan("t", (3, 5), block_format("F16"))
    data = np.arange(15, dtype=np.float16)
    write_gguf(tmp_path / "a.gguf", {"k": encode_u32(7)}, [plan], [data.view(np.uint8)])
    part = read_gguf(tmp_path / "a.gguf")
    assert part.metadata == {"k": 7}
    assert part.tensors["t"].shape == (3, 5)
    assert np.array_equal(part.tensors["t"].numpy().ravel(), data)
