"""Every family, both containers, every backend: logits equal transformers' own, kept in tests/golden, however the
prompts are run; and on the CPU they are the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from plait.ops.api import Backend
from support.backends import make_backend, other_paths
from support.families import CASES, close, load_tiny, new_driver
from support.schedules import Schedule, chunked, decoded, whole
from support.steps import Chunk
from support.tiny_models import GOLDEN_ROWS, PROMPTS, golden_logits, tiny_models


@pytest.mark.parametrize(("name", "container"), CASES)
def test_logits_are_those_of_transformers(name: str, container: str, backend: Backend) -> None:
    driver = new_driver(load_tiny(name, container), backend)
    close(driver.step({"a": Chunk(PROMPTS["a"], GOLDEN_ROWS)})["a"], golden_logits(name))


@pytest.mark.parametrize("run", [chunked, decoded])
@pytest.mark.parametrize("name", tiny_models())
def test_the_cpu_gives_the_bits_of_the_sequence_alone(name: str, run: Schedule) -> None:
    model = load_tiny(name, "safetensors")
    alone = whole(new_driver(model, make_backend("cpu-1"), "f16"), PROMPTS)
    for name, logits in run(new_driver(model, make_backend("cpu-2"), "f16"), PROMPTS).items():
        np.testing.assert_array_equal(logits, alone[name])


@pytest.mark.parametrize("path", other_paths())
@pytest.mark.parametrize("name", tiny_models())
def test_every_simd_path_gives_the_same_bits(name: str, path: str) -> None:
    model = load_tiny(name, "safetensors")
    want = whole(new_driver(model, make_backend("cpu-1"), "f16"), PROMPTS)
    for name, logits in chunked(new_driver(model, make_backend(f"cpu-2:{path}"), "f16"), PROMPTS).items():
        np.testing.assert_array_equal(logits, want[name])


DIFFERENCES = [
    ("llama", "llama-yarn"), ("mistral-nemo", "ministral"), ("qwen2", "qwen2-window"), ("phi3", "phi3-window"),
    ("phi3", "phi3-longrope"), ("phi3", "phi4-mini"), ("starcoder2", "starcoder2-window"), ("olmo", "olmo2"),
    ("gpt-neox", "gpt-neox-serial"), ("command-r", "cohere2"), ("glm", "glm4"),
]  # fmt: skip


@pytest.mark.parametrize(("plain", "variant"), DIFFERENCES)
def test_variants_differ(plain: str, variant: str) -> None:
    """What a variant varies must show, or its golden logits prove nothing."""
    a, b = golden_logits(plain), golden_logits(variant)
    assert np.abs(a - b)[-1].max() > 1e-2 * np.abs(a).max()
