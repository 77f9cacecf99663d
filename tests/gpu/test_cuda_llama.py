"""The Llama definition on a GPU against the numpy reference: prefill, chunks, decoding, several sequences, both
containers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gpu_report import Measured, Report

from plait.formats.open import open_model
from plait.formats.quant.tensors import quantize
from plait.formats.tensor import F32Array
from plait.models.registry import LoadedModel, load_model
from plait.ops.api import Backend, KVConfig
from plait.ops.cuda import open_cuda
from plait.ops.reference import ReferenceBackend
from support.model_bytes import F32_VALUE, gguf, string, tensor, u32
from support.steps import Chunk, Driver
from support.tiny_llama import LLAMA3, TinyLlama

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

BOUNDS = {"f32": 1e-4, "f16": 0.02, "bf16": 0.16}
"""Largest difference of a logit, over the standard deviation of the logits. The types have 24, 11 and 8 bits: the last
two bounds are 40 units of rounding; numpy that rounds after every op comes to 15 and 17."""

PAGE_SIZE = 16
PROMPT_LENGTHS = {"a": 150, "b": 1, "c": 47, "d": 16}
DECODE_STEPS = 12


@dataclass(frozen=True)
class SmallLlama(TinyLlama):
    """Wide enough for real matrix kernels. Matrices are scaled so that values stay near 1, as in a trained model."""

    n_layers: int = 3
    d_model: int = 256
    n_heads: int = 8
    n_kv_heads: int = 2
    head_dim: int = 64
    ff: int = 512
    vocab: int = 512
    context: int = 512
    rope: Mapping[str, object] | None = None

    def hf_tensors(self, seed: int = 0) -> dict[str, F32Array]:
        tensors = super().hf_tensors(seed)
        return {
            name: array * np.float32(1 / (0.3 * array.shape[1] ** 0.5)) if array.ndim == 2 else array
            for name, array in tensors.items()
        }


LLAMA = SmallLlama(rope=LLAMA3)


def save_q8_0(llama: TinyLlama, path: Path) -> Path:
    """A GGUF file with its matrices in Q8_0, written here: the gguf package need not be installed."""
    pairs = [(key, _value(value)) for key, value in llama.gguf_metadata().items()]
    entries, data = [], b""
    for name, array in llama.gguf_tensors().items():
        matrix = array.ndim == 2
        content = quantize(array, "Q8_0").tobytes() if matrix else array.astype("<f4").tobytes()
        entries.append(tensor(name, array.shape[::-1], 8 if matrix else 0, len(data)))
        data += content + b"\0" * (-len(content) % 32)
    path.write_bytes(gguf(pairs, entries, data))
    return path


def _value(value: object) -> bytes:
    if isinstance(value, float):
        return struct.pack("<If", F32_VALUE, value)
    return u32(value) if isinstance(value, int) else string(str(value))


@pytest.fixture(scope="module", params=["safetensors", "gguf Q8_0"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    directory = tmp_path_factory.mktemp("model")
    if request.param == "safetensors":
        path = LLAMA.save("safetensors", directory)
        assert json.loads((path / "config.json").read_text())["rope_parameters"]["rope_type"] == "llama3"
    else:
        path = save_q8_0(LLAMA, directory / "small.gguf")
    return load_model(open_model(path))


def new_driver(backend: Backend, model: LoadedModel, kv_type: str = "f32") -> Driver:
    config = KVConfig(PAGE_SIZE, (64,), kv_type)
    return Driver(backend.compile(model.program, config), config, np.random.default_rng(1))


def prompts() -> dict[str, list[int]]:
    rng = np.random.default_rng(4)
    return {name: rng.integers(0, LLAMA.vocab, n).tolist() for name, n in PROMPT_LENGTHS.items()}


def schedule() -> Iterator[tuple[str, dict[str, Chunk]]]:
    """Named steps: a short prompt whole; the others in chunks beside it while it decodes; then all decode together."""
    texts = prompts()
    rng = np.random.default_rng(5)
    yield "prefill", {"d": Chunk.every(texts["d"])}
    yield "prefill of several", {"b": Chunk.every(texts["b"]), "c": Chunk.every(texts["c"])}
    for start in range(0, len(texts["a"]), 64):
        decoding = {name: Chunk.every([int(rng.integers(LLAMA.vocab))]) for name in ("b", "c")}
        yield "chunks beside decoding", {"a": Chunk.every(texts["a"][start : start + 64]), **decoding}
    for _ in range(DECODE_STEPS):
        yield "decoding", {name: Chunk.every([int(rng.integers(LLAMA.vocab))]) for name in texts}


@pytest.fixture(scope="module")
def wanted(model: LoadedModel) -> list[dict[str, F32Array]]:
    """The reference's logits for every step of `schedule`, float32 throughout."""
    driver = new_driver(ReferenceBackend(), model)
    return [driver.step(chunks) for _, chunks in schedule()]


def distance(got: F32Array, want: F32Array) -> float:
    return float(np.abs(got - want).max() / want.std())


def container(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["model"])


@pytest.mark.parametrize("dtype", list(BOUNDS))
def test_every_step_is_near_the_reference(
    model: LoadedModel,
    wanted: list[dict[str, F32Array]],
    dtype: str,
    device: str,
    report: Report,
    request: pytest.FixtureRequest,
) -> None:
    driver = new_driver(open_cuda(device, dtype), model, dtype)
    errors: dict[str, float] = {}
    for (name, chunks), want in zip(schedule(), wanted, strict=True):
        got = driver.step(chunks)
        assert list(got) == list(want)
        errors[name] = max(errors.get(name, 0), *(distance(got[s], want[s]) for s in want))
    for name, error in errors.items():
        measured = Measured(f"{container(request)}: {name}", dtype, error, BOUNDS[dtype])
        report.rows.append(measured)
        assert measured.held, f"{measured.what} is off by {error:.2e} standard deviations"


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_chunks_are_near_the_whole(
    model: LoadedModel, dtype: str, device: str, report: Report, request: pytest.FixtureRequest
) -> None:
    prompt = prompts()["c"]
    backend = open_cuda(device, dtype)
    whole = new_driver(backend, model, dtype).step({"s": Chunk.every(prompt)})["s"]
    for size in (1, 7, 32):
        driver = new_driver(backend, model, dtype)
        parts = [driver.step({"s": Chunk.every(prompt[i : i + size])})["s"] for i in range(0, len(prompt), size)]
        error = distance(np.concatenate(parts), whole)
        measured = Measured(f"{container(request)}: chunks of {size} and the whole", dtype, error, BOUNDS[dtype])
        report.rows.append(measured)
        assert measured.held
