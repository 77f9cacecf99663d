"""The bundled model against llama.cpp's recorded answers (see make_bundled_golden.py), and against itself."""

from pathlib import Path

import numpy as np
import pytest

from plait import LLM, Batch, Context, Model, SamplingParams
from plait.formats.hub import resolve_model
from plait.formats.open import open_model
from plait.ops.api import Backend, KVConfig
from plait.ops.cpu import CpuBackend
from plait.ops.reference import ReferenceBackend
from support.bundled import PROMPTS, write_f16
from support.steps import Chunk, Driver

KV = KVConfig(16, (64,), "f32")
GOLDEN = np.load(Path(__file__).with_name("bundled_llama_cpp.npz"))


@pytest.fixture(scope="module")
def f16(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.load(write_f16(tmp_path_factory.mktemp("bundled") / "f16.gguf"))


def last_logits(model: Model, ids: list[int], device: str = "cpu") -> np.ndarray:
    context = Context(model, n_ctx=128, n_seq_max=1, kv_type="f32", threads=1, device=device)
    batch = Batch()
    for position, token in enumerate(ids):
        batch.add(token, position, [0])
    batch.want_logits()
    assert context.decode(batch) == 0
    return context.logits()


@pytest.mark.parametrize("i", range(len(PROMPTS)))
def test_token_ids_are_llama_cpps(f16: Model, i: int) -> None:
    assert f16.tokenizer.encode(PROMPTS[i]) == GOLDEN[f"ids{i}"].tolist()


@pytest.mark.parametrize("i", range(len(PROMPTS)))
def test_logits_of_the_f16_file_are_llama_cpps_within_float16_rounding(f16: Model, i: int) -> None:
    """llama.cpp rounds activations to float16 before each product (2^-11 relative each); ours stay float32. The bound
    is a few such roundings, on the scale of the logits."""
    expected = GOLDEN[f"logits{i}"]
    found = last_logits(f16, GOLDEN[f"ids{i}"].tolist())
    assert np.abs(found - expected).max() < 4 * 2**-11 * np.abs(expected).max()
    assert np.abs(found - expected).std() < 2**-11 * expected.std()


@pytest.mark.parametrize("i", range(len(PROMPTS)))
def test_greedy_tokens_are_llama_cpps(f16: Model, i: int) -> None:
    with LLM(f16, n_ctx=128, kv_type="f32") as llm:
        params = SamplingParams(max_tokens=32, temperature=0, ignore_eos=True)
        assert list(llm.generate([PROMPTS[i]], params)[0].samples[0].token_ids) == GOLDEN[f"greedy{i}"].tolist()


def test_cpu_kernels_agree_with_the_reference(f16: Model) -> None:
    """Products with Q8_0 weights round the rows, 32 values at a time, to 8 bits: half a percent of noise in each, which
    shows as about one of the logits' scale. Products in float32 have no such excuse."""
    model = Model.load()
    ids = model.tokenizer.encode(PROMPTS[0])
    for subject, tolerance in ((model, 1e-2), (f16, 1e-4)):
        reference, cpu = last_logits(subject, ids, "reference"), last_logits(subject, ids)
        assert np.abs(cpu - reference).max() < tolerance * np.abs(reference).max()


def mean_surprise(model: Model, backend: Backend) -> float:
    """Of each golden continuation's tokens, in nats: the logarithm of the perplexity."""
    driver = Driver(backend.compile(model.loaded.program, KV), KV)
    total: list[float] = []
    for i in range(len(PROMPTS)):
        ids = [*GOLDEN[f"ids{i}"].tolist(), *GOLDEN[f"greedy{i}"].tolist()]
        logits = driver.step({str(i): Chunk.every(ids)})[str(i)][:-1].astype(np.float64)
        total += (np.logaddexp.reduce(logits, axis=-1) - logits[np.arange(len(logits)), ids[1:]]).tolist()
    return float(np.mean(total))


def test_perplexity_is_that_of_the_dequantised_weights() -> None:
    model = Model.load()
    assert abs(mean_surprise(model, CpuBackend(1)) - mean_surprise(model, ReferenceBackend())) < 0.005


def test_it_is_what_the_readme_says() -> None:
    path = resolve_model(None)
    source = open_model(path)
    model = Model.load()
    assert path.stat().st_size <= 24_000_000
    assert 15e6 <= model.loaded.n_parameters <= 25e6
    assert {t.format for t in source.tensors.values() if len(t.shape) == 2} == {"Q8_0"}
    assert all(t.shape[1] % 256 == 0 for t in source.tensors.values() if len(t.shape) == 2), "every K-quant applies"
    assert model.context_length == 8192
    assert model.loaded.program.n_heads > model.loaded.kv.n_kv_heads, "grouped-query attention"
    assert model.tokenizer.chat_template is not None
    assert source.metadata["tokenizer.ggml.pre"] == "gpt-2"
