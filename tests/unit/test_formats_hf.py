"""Hugging Face directories: written by the safetensors library, read by us; and every defect of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from plait.errors import ModelFileError, UnsupportedModelError
from plait.formats.hf import HuggingFaceSource, open_hf
from support import model_bytes as mb

VALUES = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


def write_config(folder: Path, config: object = None) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} if config is None else config))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_config(tmp_path)
    tensors = {
        "f32": VALUES,
        "f16": VALUES.astype(np.float16),
        "bf16": VALUES.astype(ml_dtypes.bfloat16),
        "vector": VALUES[0],
        "scalar": np.array(2.5, np.float32),
        "position_ids": np.arange(5, dtype=np.int64),
        "nothing": np.zeros((0, 3), np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def write_shards(folder: Path, weight_map: dict[str, Any] | None = None) -> None:
    write_config(folder)
    for index in range(2):
        save_file({f"t{index}": VALUES + index, "extra": VALUES}, folder / f"model-{index}.safetensors")
    weight_map = {"t0": "model-0.safetensors", "t1": "model-1.safetensors"} if weight_map is None else weight_map
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_tensors(model: Path) -> None:
    source = open_hf(model)
    assert (source.path, source.container) == (model, "safetensors")
    assert source.metadata == {"model_type": "llama"}
    tensors = source.tensors
    assert {name: tensors[name].format for name in ("f32", "f16", "bf16")} == {
        "f32": "F32",
        "f16": "F16",
        "bf16": "BF16",
    }
    assert np.array_equal(tensors["f32"].numpy(), VALUES)
    assert np.array_equal(tensors["f16"].numpy(), VALUES.astype(np.float16).astype(np.float32))
    assert np.array_equal(tensors["bf16"].numpy(), VALUES.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert tensors["bf16"].raw().tobytes() == VALUES.astype(ml_dtypes.bfloat16).tobytes()
    assert tensors["bf16"].raw().shape == (4, 12)
    assert tensors["bf16"].nbytes == 48
    assert tensors["vector"].raw().shape == (1, 24)
    assert (tensors["scalar"].shape, float(tensors["scalar"].numpy())) == ((), 2.5)
    assert tensors["nothing"].numpy().shape == (0, 3)


def test_raw_is_not_a_copy(model: Path) -> None:
    tensor = open_hf(model).tensors["f32"]
    assert not tensor.raw().flags.writeable
    assert np.shares_memory(tensor.raw(), tensor.raw())


def test_other_dtypes_do_no_harm_until_used(model: Path) -> None:
    ids = open_hf(model).tensors["position_ids"]
    assert (ids.format, ids.shape) == ("I64", (5,))
    with pytest.raises(UnsupportedModelError, match=r"tensor 'position_ids': is of type I64, which .* reads: F32, F16"):
        ids.numpy()


def test_shards(tmp_path: Path) -> None:
    write_shards(tmp_path)
    tensors = open_hf(tmp_path).tensors
    assert list(tensors) == ["t0", "t1"]
    assert np.array_equal(tensors["t1"].numpy(), VALUES + 1)


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        ({"t0": "model-7.safetensors"}, r"names the shard model-7\.safetensors, which is missing"),
        ({"t1": "model-0.safetensors"}, r"tensor 't1': is not in model-0\.safetensors, where the index says"),
        ({"t0": "../model-0.safetensors"}, "is no shard's name"),
        ({"t0": "/etc/passwd"}, "is no shard's name"),
        ({"t0": 3}, "'t0' is in 3, which is no shard's name"),
        ({}, "key 'weight_map': expected an object"),
        ([], "key 'weight_map': expected an object"),
    ],
)
def test_index_defects(tmp_path: Path, weight_map: Any, says: str) -> None:
    write_shards(tmp_path, weight_map)
    with pytest.raises(ModelFileError, match=f"index.json: .*{says}"):
        open_hf(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"has no config\.json"):
        open_hf(tmp_path)
    write_config(tmp_path)
    with pytest.raises(ModelFileError, match=r"has neither model\.safetensors nor model\.safetensors\.index\.json"):
        open_hf(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"{", "is not JSON: .* at line 1, column 2; it looks like JSON text"),
        (b"version https://git-lfs.github.com/spec/v1", "it looks like a git-lfs pointer"),
        (b"[1]", "is not a JSON object but a list"),
        (b"null", "is not a JSON object but a NoneType"),
        (b'{"a": 1, "a": 2}', "key 'a' appears twice"),
        (b'{"b": {"a": 1, "a": 2}}', "key 'a' appears twice"),
        (b'{"a": "\xff"}', "is not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_config_defects(model: Path, content: bytes, says: str) -> None:
    (model / "config.json").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"config\.json: .*" + says):
        open_hf(model)


def opened(folder: Path, content: bytes) -> HuggingFaceSource:
    mb.write(folder / "config.json", b"{}")
    mb.write(folder / "model.safetensors", content)
    return open_hf(folder)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (mb.entry("F32", (2,), 0, 12), r"shape \(2,\) of F32 needs 8 bytes, but 12 are given"),
        (mb.entry("F32", (4,), 0, 17), "lies at bytes 0 to 17 of 16; the file is truncated"),
        (mb.entry("F32", (4,), 8, 4), "lies at bytes 8 to 4"),
        (mb.entry("F32", (2**62,), 0, 16), "needs 18446744073709551616 bytes"),
        (mb.entry("F32", (2**64,), 0, 16), "has no shape"),
        (mb.entry("F32", (-1,), 0, 4), "has no shape"),
        (mb.entry("F32", (1,) * 9, 0, 4), "has no shape"),
        (mb.entry("F32", (1,), 0, 2**70), "has no data_offsets"),
        (mb.entry("Q8_0", (32,), 0, 16), "its dtype Q8_0 is GGUF's"),
        ({"dtype": 3, "shape": [4], "data_offsets": [0, 16]}, "has no dtype"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "has no shape"),
        ({"dtype": "F32", "shape": [4]}, "has no data_offsets"),
        ({"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}, "has no shape"),
        ([], "is not an object"),
    ],
)
def test_entry_defects(tmp_path: Path, entry: object, says: str) -> None:
    with pytest.raises(ModelFileError, match=f"tensor 'a': .*{says}") as caught:
        opened(tmp_path, mb.safetensors({"a": entry}, b"\0" * 16))
    assert caught.value.tensor == "a"


def test_unknown_dtype_is_listed(tmp_path: Path) -> None:
    tensor = opened(tmp_path, mb.safetensors({"a": mb.entry("F4", (8,), 0, 4)}, b"\0" * 4)).tensors["a"]
    assert tensor.format == "F4"
    with pytest.raises(UnsupportedModelError, match="is of type F4"):
        tensor.raw()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"abc", "is not a safetensors file; it looks like a text file"),
        (b"GGUF" + b"\xff" * 60, "is not a safetensors file; it looks like a GGUF file"),
        (b"PK\x03\x04" + b"\xff" * 60, "it looks like a zip archive"),
        (mb.safetensors(b"{}", length=5000), "its header claims 5000 bytes, but the file has 10"),
        (mb.safetensors(b"{nope"), "the header is not JSON"),
        (mb.safetensors(b"[]"), "the header is not a JSON object but a list"),
        (mb.safetensors({"a\nb": mb.entry("F32", (1,), 0, 4)}, b"\0" * 4), "too long or unprintable"),
        (
            mb.safetensors({"a": mb.entry("F32", (2,), 0, 8), "b": mb.entry("F32", (2,), 4, 12)}, b"\0" * 12),
            "tensor 'b': overlaps tensor 'a'",
        ),
    ],
)
def test_safetensors_defects(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ModelFileError, match=rf"model\.safetensors: .*{says}") as caught:
        opened(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = mb.safetensors({"a": mb.entry("F32", (2,), 0, 8)}, b"\0" * 8)
    assert opened(tmp_path, whole).tensors["a"].numpy().tolist() == [0, 0]
    for size in range(len(whole)):
        with pytest.raises(ModelFileError):
            opened(tmp_path, whole[:size])


def test_odd_addresses(tmp_path: Path) -> None:
    for padding in range(4):
        header = json.dumps({"a": mb.entry("F32", (2,), 0, 8)}).encode() + b" " * padding
        values = opened(tmp_path, mb.safetensors(header, VALUES[0, :2].tobytes())).tensors["a"].numpy()
        assert values.flags.aligned
        assert np.array_equal(values, VALUES[0, :2])
