"""Which tiling a product takes: what was measured on a GPU of its name, else a default; and weights nobody trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from plait.engine.fingerprint import fingerprint
from plait.formats.open import open_weights
from plait.models.registry import load_model
from plait.ops.cuda.kernels.rows import MOST_ROWS, Tiling
from plait.ops.cuda.products import MEASURED, Choices, default_tiling, file_name
from support.tiny_llama import TinyLlama

pytestmark = pytest.mark.parity


def test_what_was_measured_goes_before_the_default(tmp_path: Path) -> None:
    rows = [[[64, 40, 200, True], [16, 32, 2, 4, 3]], [[2, 40, 200, False], None]]
    (tmp_path / f"{file_name('NVIDIA X1')}.json").write_text(json.dumps(rows))
    choices = Choices.of_device("NVIDIA X1", tmp_path)
    assert choices.of(40, 40, 200, True) == Tiling(16, 32, 2, 4, 3)  # 40 rows go with 64
    assert choices.of(2, 40, 200, False) is None
    assert choices.of(1, 40, 200, False) == default_tiling(1, 40, 200, False) is not None
    assert choices.of(64, 40, 200, False) is None
    assert choices.of(MOST_ROWS + 1, 40, 200, True) is None
    assert Choices.of_device("NVIDIA X2", tmp_path) == Choices()


def test_the_measured_files_can_be_read() -> None:
    files = list(MEASURED.glob("*.json"))
    assert files
    for file in files:
        assert Choices.of_device(file.stem.replace("-", " ")).measured


def test_random_weights_need_a_config_alone(tmp_path: Path) -> None:
    saved = TinyLlama().save("safetensors", tmp_path)
    folder = tmp_path / "shape"
    folder.mkdir()
    (folder / "config.json").write_bytes((saved / "config.json").read_bytes())
    random, real = load_model(open_weights(folder, "random")), load_model(open_weights(saved, "auto"))
    assert random.vocab_size == real.vocab_size
    assert fingerprint(random, "bf16", "cuda") != fingerprint(real, "bf16", "cuda")
    assert fingerprint(random, "bf16", "cuda") == fingerprint(random, "bf16", "cuda")
