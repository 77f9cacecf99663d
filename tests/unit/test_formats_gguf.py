"""GGUF files written by the `gguf` package, read by us: values, shapes, bits, splits."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from plait.errors import ModelFileError, ModelNotFoundError, UnsupportedModelError
from plait.formats.check import require_shape, require_tensor
from plait.formats.gguf import open_gguf, part_names
from plait.formats.quant import quantize
from support import model_bytes as mb


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for kind in ("uint8", "uint16", "uint32", "uint64"):
        getattr(writer, f"add_{kind}")(f"n.{kind}", 200)
    for kind in ("int8", "int16", "int32", "int64"):
        getattr(writer, f"add_{kind}")(f"n.{kind}", -100)
    writer.add_uint64("n.big", 2**64 - 1)
    writer.add_float32("n.float32", 0.5)
    writer.add_float64("n.float64", 1e300)
    writer.add_bool("n.yes", True)
    writer.add_bool("n.no", False)
    writer.add_string("text", "zwölf Ġ ▁ 🦙")
    writer.add_token_list(["<s>", "", "Ġa", "🦙"])
    writer.add_token_scores([0.0, -1.5, 2.0, 3.0])
    writer.add_token_types([3, 1, 1, 6])
    writer.add_array("flags", [True, False, True])
    values = rng.normal(size=(6, 64)).astype(np.float32)
    writer.add_tensor("f32", values)
    writer.add_tensor("f16", values.astype(np.float16))
    writer.add_tensor("vector", values[0])
    writer.add_tensor("experts", values.reshape(2, 3, 64))
    writer.add_tensor("q8", quantize(values, "Q8_0"), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.add_tensor("ids", np.arange(6, dtype=np.int32))
    finish(writer)
    return path


def test_metadata(model: Path) -> None:
    metadata = open_gguf(model).metadata
    for kind in ("uint8", "uint16", "uint32", "uint64"):
        assert metadata[f"n.{kind}"] == 200
    for kind in ("int8", "int16", "int32", "int64"):
        assert metadata[f"n.{kind}"] == -100
    assert metadata["n.big"] == 2**64 - 1
    assert type(metadata["n.big"]) is int
    assert (metadata["n.float32"], metadata["n.float64"]) == (0.5, 1e300)
    assert metadata["n.yes"] is True
    assert metadata["n.no"] is False
    assert metadata["text"] == "zwölf Ġ ▁ 🦙"
    assert metadata["tokenizer.ggml.tokens"] == ["<s>", "", "Ġa", "🦙"]
    scores, types, flags = (metadata[k] for k in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type", "flags"))
    assert isinstance(scores, np.ndarray)
    assert scores.dtype == np.float32
    assert scores.tolist() == [0, -1.5, 2, 3]
    assert isinstance(types, np.ndarray)
    assert types.tolist() == [3, 1, 1, 6]
    assert isinstance(flags, np.ndarray)
    assert flags.tolist() == [True, False, True]
    with pytest.raises(TypeError):
        metadata["text"] = "other"  # type: ignore[index]


def test_tensors_equal_the_package_s_reader(model: Path) -> None:
    source = open_gguf(model)
    assert source.container == "gguf"
    assert list(source.tensors) == [t.name for t in gguf.GGUFReader(model).tensors]
    for theirs in gguf.GGUFReader(model).tensors:
        ours = source.tensors[theirs.name]
        assert ours.shape == tuple(theirs.shape.tolist()[::-1])
        assert (ours.format, ours.nbytes) == (theirs.tensor_type.name, theirs.n_bytes)
        if ours.format != "I32":
            assert ours.raw().tobytes() == theirs.data.tobytes()
            want = gguf.quants.dequantize(theirs.data, theirs.tensor_type).reshape(ours.shape)
            assert np.array_equal(ours.numpy(), want)
            assert ours.numpy().dtype == np.float32


def test_raw_is_rows_and_not_a_copy(model: Path) -> None:
    tensors = open_gguf(model).tensors
    assert tensors["q8"].raw().shape == (6, 68)
    assert tensors["experts"].raw().shape == (6, 256)
    assert tensors["vector"].raw().shape == (1, 256)
    assert not tensors["f32"].raw().flags.writeable
    assert np.shares_memory(tensors["f32"].raw(), tensors["f32"].raw())
    assert np.shares_memory(tensors["f32"].raw(), tensors["f32"].numpy())


def test_tensors_outlive_their_source(model: Path) -> None:
    tensor = open_gguf(model).tensors["f32"]
    model.unlink()
    assert np.isfinite(tensor.numpy()).all()


def test_type_without_reader_is_listed_and_refused_on_use(model: Path) -> None:
    ids = open_gguf(model).tensors["ids"]
    assert (ids.format, ids.shape, ids.nbytes) == ("I32", (6,), 24)
    for use in (ids.raw, ids.numpy):
        with pytest.raises(
            UnsupportedModelError, match=r"tensor 'ids': is of type I32, which .*the nearest that it reads: F32, F16"
        ):
            use()


def test_version_2_and_custom_alignment(tmp_path: Path) -> None:
    path = tmp_path / "two.gguf"
    data = np.arange(4, dtype="<f4").tobytes()
    info = mb.tensor("t", (2, 2), 0, 8)
    path.write_bytes(mb.gguf([("general.alignment", mb.u32(8))], [info], b"\0" * 8 + data, version=2, alignment=8))
    assert open_gguf(path).tensors["t"].numpy().tolist() == [[0, 1], [2, 3]]


def test_numbers_at_odd_addresses(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    pair = ("general.alignment", mb.u32(1))
    for padding in range(4):
        name = "t" * (1 + padding)
        path.write_bytes(mb.gguf([pair], [mb.tensor(name, (2,), 0, 0)], struct.pack("<2f", 1, 2), alignment=1))
        values = open_gguf(path).tensors[name].numpy()
        assert values.flags.aligned
        assert values.tolist() == [1, 2]


def write_split(folder: Path) -> list[Path]:
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=2)
    writer.add_uint32("llama.block_count", 7)
    for index in range(5):
        writer.add_tensor(f"t{index}", np.full((2, 32), index, np.float32))
    finish(writer)
    return sorted(folder.glob("m-*.gguf"))


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_split_opens_from_any_part(tmp_path: Path, opened: int) -> None:
    parts = write_split(tmp_path)
    assert [p.name for p in parts] == part_names("m-00002-of-00003.gguf")
    source = open_gguf(parts[opened])
    assert source.path == parts[0]
    assert source.metadata["llama.block_count"] == 7
    assert [t.numpy()[0, 0] for t in source.tensors.values()] == [0, 1, 2, 3, 4]


def test_split_defects(tmp_path: Path) -> None:
    first, second, third = write_split(tmp_path)
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(ModelFileError, match=r"one of 3 parts, but m-00002-of-00003\.gguf is missing"):
        open_gguf(first)
    second.write_bytes(third.read_bytes())
    with pytest.raises(ModelFileError, match=r"m-00002-of-00003.gguf: its name says part 2 of 3, its keys split.no 2"):
        open_gguf(first)
    second.write_bytes(content.replace(b"t2", b"t0"))
    with pytest.raises(ModelFileError, match=r"tensor 't0': is in m-00001-of-00003\.gguf, too"):
        open_gguf(first)
    second.write_bytes(content)
    renamed = first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelFileError, match=r"is part 1 of 3; its name must end in -00001-of-00003\.gguf"):
        open_gguf(renamed)


def test_split_tensor_count(tmp_path: Path) -> None:
    for index in range(2):
        pairs = [
            ("split.no", struct.pack("<IH", mb.U16, index)),
            ("split.count", struct.pack("<IH", mb.U16, 2)),
            ("split.tensors.count", mb.u32(3)),
        ]
        content = mb.gguf(pairs, [mb.tensor(f"t{index}", (1,), 0, 0)], b"\0" * 4)
        (tmp_path / f"m-0000{index + 1}-of-00002.gguf").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"key 'split.tensors.count': claims 3 tensors, but the 2 parts hold 2"):
        open_gguf(tmp_path / "m-00002-of-00002.gguf")


def test_part_names_of_what_is_no_part() -> None:
    for name in ("m.gguf", "m-1-of-3.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf"):
        assert part_names(name) == [name]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file"):
        open_gguf(tmp_path / "none.gguf")


def test_require(model: Path) -> None:
    source = open_gguf(model)
    assert require_tensor(source, "q8", (6, 64)).name == "q8"
    require_shape(source.tensors["q8"], (6, 64), source.path)
    with pytest.raises(ModelFileError, match=r"shape \(6, 64\) contradicts the config: expected \(64, 6\)") as caught:
        require_tensor(source, "q8", (64, 6))
    assert caught.value.tensor == "q8"
    with pytest.raises(ModelFileError, match="tensor 'nothing': is missing"):
        require_tensor(source, "nothing")


def test_opening_reads_the_header_only(tmp_path: Path) -> None:
    """A tensor of 64 GiB, which is a hole in the file: opening it and reading one row takes next to nothing."""
    path = tmp_path / "hole.gguf"
    rows, width = 1 << 20, 1 << 14
    path.write_bytes(mb.gguf([], [mb.tensor("t", (width, rows), 0, 0)], b"\0"))
    os.truncate(path, path.stat().st_size - 1 + rows * width * 4)
    tracemalloc.start()
    try:
        tensor = open_gguf(path).tensors["t"]
        assert tensor.nbytes == 64 << 30
        assert not tensor.raw()[rows - 1].any()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_large_vocabulary(tmp_path: Path) -> None:
    """128k tokens and 280k merges, exactly; in memory the strings themselves and little more. Its time is measured by
    benchmarks/gguf_open.py."""
    tokens, merges = [f"Ġ{i:x}" for i in range(128_256)], [f"Ġ{i:x} {i:o}" for i in range(280_147)]
    pairs = [
        ("tokens", mb.array(mb.STRING, len(tokens), b"".join(map(mb.text, tokens)))),
        ("merges", mb.array(mb.STRING, len(merges), b"".join(map(mb.text, merges)))),
        ("scores", mb.array(mb.F32_VALUE, len(tokens), np.arange(len(tokens), dtype="<f4").tobytes())),
    ]
    path = mb.write(tmp_path / "vocabulary.gguf", mb.gguf(pairs))
    tracemalloc.start()
    try:
        metadata = open_gguf(path).metadata
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert metadata["tokens"] == tokens
    assert metadata["merges"] == merges
    assert np.array_equal(metadata["scores"], np.arange(len(tokens)))  # type: ignore[arg-type]
