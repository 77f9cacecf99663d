"""The random models that benchmarks run on: valid blocks of the right spread, in llama-quantize's mixes."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from plait.formats.open import open_model
from plait.models.registry import load_model
from plait.tokenizer import Tokenizer

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "make_random.py"


@pytest.fixture(scope="module")
def make_random() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_random", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_random"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"])
def test_values_have_mean_0_and_the_spread_of_a_trained_matrix(make_random: ModuleType, kind: str) -> None:
    data = make_random.draw(np.random.default_rng(1), kind, 256, 1024)
    values = dequantize(data.view(np.float16) if kind == "F16" else data, GGMLQuantizationType[kind])
    assert values.shape == (256, 1024)
    assert np.isfinite(values).all()
    assert values.std() * 32 == pytest.approx(1, rel=0.05)
    assert abs(values.mean()) * 32 < 0.02
    assert len(np.unique(values)) > 1000
    assert len(np.unique(values[:, 0])) > 200  # rows differ


@pytest.mark.parametrize(
    ("mix", "matrices"),
    [
        ("F16", {"F16": 15}),
        ("Q8_0", {"Q8_0": 15}),
        ("Q4_0", {"Q4_0": 14, "Q6_K": 1}),
        ("Q4_K_M", {"Q4_K": 12, "Q6_K": 3}),  # of two layers, the last has more bits
    ],
)
def test_the_file_opens_as_a_model_with_a_tokenizer(
    make_random: ModuleType, mix: str, matrices: dict[str, int], tmp_path: Path
) -> None:
    make_random.write(tmp_path / "m.gguf", "tiny", mix)
    source = open_model(tmp_path / "m.gguf")
    formats = [t.format for t in source.tensors.values() if len(t.shape) == 2]
    assert {kind: formats.count(kind) for kind in formats} == matrices
    assert load_model(source).vocab_size == 512
    tokenizer = Tokenizer.from_source(source)
    ids = tokenizer.encode(" ab é z", add_special=False)
    assert tokenizer.decode(ids) == " ab é z"
    assert len(ids) == 5  # " ab", " ", the two bytes of "é", " z"


def test_the_same_seed_gives_the_same_bytes_and_another_others(make_random: ModuleType, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_random.write(tmp_path / name, "tiny", "Q4_K_M", seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("shape", "millions"),
    [("small", 15.7), ("bundled", 22.0), ("tinyllama-1.1b", 1100), ("llama-3.2-1b", 1236), ("llama-2-7b", 6738)],
)
def test_shapes_have_as_many_parameters_as_their_models(make_random: ModuleType, shape: str, millions: float) -> None:
    what = make_random.SHAPES[shape]
    count = sum(rows * columns for _, rows, columns in what.matrices()) + (2 * what.layers + 1) * what.width
    assert count / 1e6 == pytest.approx(millions, rel=0.003)


def test_rows_that_are_no_multiple_of_256_get_the_next_type(make_random: ModuleType) -> None:
    shape = make_random.SHAPES["small"]
    assert make_random.tensor_type("Q4_K_M", shape, "blk.3.ffn_gate", 96, False) == "Q5_0"
    assert make_random.tensor_type("Q4_0", shape, "token_embd", 96, False) == "Q8_0"
    assert make_random.tensor_type("Q4_0", shape, "token_embd", 512, True) == "Q4_0"


def test_it_writes_nothing_into_the_repository() -> None:
    target = SCRIPT.parent / "random.gguf"
    command = [sys.executable, str(SCRIPT), "tiny", "Q8_0", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "repository" in done.stderr
    assert not target.exists()
