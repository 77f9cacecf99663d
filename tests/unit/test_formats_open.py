"""Which model a path holds."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from plait.errors import ModelFileError, ModelNotFoundError
from plait.formats.open import gguf_models, open_model
from support import model_bytes as mb


def write_gguf(path: Path, split: tuple[int, int] | None = None) -> Path:
    pairs = []
    if split is not None:
        pairs = [(f"split.{key}", struct.pack("<IH", mb.U16, n)) for key, n in zip(("no", "count"), split, strict=True)]
    name = path.stem[:20]
    path.write_bytes(mb.gguf([("name", mb.string(name)), *pairs], [mb.tensor(name, (1,), 0, 0)], b"\0" * 4))
    return path


def write_hf(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"t": np.zeros(1, np.float32)}, folder / "model.safetensors")


def test_file_whatever_its_name(tmp_path: Path) -> None:
    assert open_model(write_gguf(tmp_path / "m.gguf")).container == "gguf"
    assert open_model(str(write_gguf(tmp_path / "sha256-abcdef"))).metadata["name"] == "sha256-abcdef"


def test_directory_with_one_gguf(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    write_gguf(tmp_path / "mmproj-m.gguf")
    (tmp_path / "README.md").write_text("")
    assert open_model(tmp_path).path == path


def test_directory_with_one_split_set(tmp_path: Path) -> None:
    for number in range(3):
        write_gguf(tmp_path / f"m-{number + 1:05d}-of-00003.gguf", (number, 3))
    assert len(open_model(tmp_path).tensors) == 3
    (tmp_path / "m-00001-of-00003.gguf").unlink()
    with pytest.raises(ModelFileError, match=r"m-00001-of-00003\.gguf is missing"):
        open_model(tmp_path)


def test_directory_of_hugging_face(tmp_path: Path) -> None:
    write_hf(tmp_path)
    write_gguf(tmp_path / "m.gguf")
    write_gguf(tmp_path / "n.gguf")
    assert open_model(tmp_path).container == "safetensors"
    (tmp_path / "config.json").unlink()
    for name in ("m.gguf", "n.gguf"):
        (tmp_path / name).unlink()
    with pytest.raises(ModelFileError, match=r"has no config\.json"):
        open_model(tmp_path)


def test_several_models(tmp_path: Path) -> None:
    for index in range(10):
        write_gguf(tmp_path / f"m{index}.gguf")
    with pytest.raises(ModelNotFoundError, match=r"holds 10 models, name one of them: m0\.gguf, m1.* and 2 more"):
        open_model(tmp_path)


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="holds no model, neither"):
        open_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(ModelNotFoundError, match=r"it holds pytorch_model\.bin, which must be converted"):
        open_model(tmp_path)


def test_safetensors_file_by_itself(tmp_path: Path) -> None:
    write_hf(tmp_path)
    with pytest.raises(ModelFileError, match="a safetensors file: give the directory that holds it"):
        open_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["none", "m.gguf/below", "zero\0byte"])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    write_gguf(tmp_path / "m.gguf")
    with pytest.raises(ModelNotFoundError, match="no such file"):
        open_model(tmp_path / name)


def test_unreadable_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> None:  # by hand: root may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(ModelFileError, match="permission denied"):
        open_model(tmp_path)


def test_too_long_a_name(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read: File name too long"):
        open_model(tmp_path / ("x" * 300))


def test_gguf_models() -> None:
    names = [
        "a.gguf",
        "q4/b-00002-of-00002.gguf",
        "q4/b-00001-of-00002.gguf",
        "mmproj-a.gguf",
        "q4/mmproj.gguf",
        "a.txt",
    ]
    assert gguf_models(names) == {
        "a.gguf": "a.gguf",
        "q4/b-00001-of-00002.gguf": "q4/b-00002-of-00002.gguf",
    }
