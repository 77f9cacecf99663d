"""Every family against transformers itself: fresh weights, prefill, decode and batch, reference and CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest

from plait.formats.tensor import F32Array
from support.backends import make_backend
from support.families import CASES, close, load_tiny, new_driver
from support.schedules import Schedule, chunked, decoded, whole
from support.tiny_models import PROMPTS, tiny_models

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]

SEED = 2026
RUNS: Sequence[tuple[str, Schedule]] = [("reference", whole), ("cpu-2", whole), ("cpu-2", chunked), ("cpu-2", decoded)]


@cache
def transformers_logits(name: str) -> dict[str, F32Array]:
    from support.transformers_oracle import tiny_logits

    logits = tiny_logits(tiny_models()[name], list(PROMPTS.values()), SEED)
    return dict(zip(PROMPTS, logits, strict=True))


@pytest.mark.parametrize(("name", "container"), CASES)
def test_fresh_weights(name: str, container: str) -> None:
    model = load_tiny(name, container, SEED)
    for backend, run in RUNS:
        for prompt, logits in run(new_driver(model, make_backend(backend)), PROMPTS).items():
            close(logits, transformers_logits(name)[prompt])


@pytest.mark.parametrize("name", tiny_models())
def test_what_transformers_saves(name: str, tmp_path: object) -> None:
    from pathlib import Path

    from plait.formats.open import open_model
    from plait.models.registry import load_model
    from support.families import SHORT
    from support.transformers_oracle import tiny_transformers

    if tiny_models()[name].renames:
        pytest.skip("transformers has no code for this family")
    assert isinstance(tmp_path, Path)
    tiny_transformers(tiny_models()[name], SEED).save_pretrained(tmp_path)
    driver = new_driver(load_model(open_model(tmp_path), SHORT), make_backend("cpu-2"))
    for prompt, logits in whole(driver, PROMPTS).items():
        close(logits, transformers_logits(name)[prompt])
