"""The bundled model on a GPU answers as the CPU's float32 path does: 20 prompts, 256 tokens each, greedily.

Where they part, the CPU's first choice must have been ahead of its second by no more than the number type can tell
apart; what follows that token is another text.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gpu_report import Report

from plait.formats.hub import resolve_model
from plait.formats.open import open_model
from plait.models.registry import LoadedModel, load_model
from plait.ops.api import KVConfig
from plait.ops.cuda import open_cuda
from support.steps import Chunk, Driver

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
GOLDEN = Path(__file__).parents[1] / "golden" / "bundled_f32_tokens.json"
PAGE = 16
NEAR = {"f32": 0.001, "f16": 0.01, "bf16": 0.06}
"""Leads in logits that count as a tie; those of this model have a deviation of about 3."""


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(open_model(resolve_model(None)))


@pytest.mark.parametrize("dtype", list(NEAR))
def test_greedy_tokens_are_those_of_the_cpu(model: LoadedModel, device: str, dtype: str, report: Report) -> None:
    golden = json.loads(GOLDEN.read_text())
    tokens, leads, prompts = golden["tokens"], golden["leads"], golden["prompts"]
    config = KVConfig(PAGE, (len(prompts) * (len(tokens[0]) + 64) // PAGE + 1,), dtype)
    driver = Driver(open_cuda(device, dtype).compile(model.program, config), config)
    chunks = {str(i): Chunk.last(prompt) for i, prompt in enumerate(prompts)}
    parted: dict[int, int] = {}
    for place in range(len(tokens[0])):
        best = np.concatenate(list(driver.step(chunks).values())).argmax(1).tolist()
        for i, token in enumerate(best):
            if token != tokens[i][place]:
                parted.setdefault(i, place)
        chunks = {str(i): Chunk.last([token]) for i, token in enumerate(best)}
    ties = {i: leads[i][place] for i, place in parted.items()}
    report.notes.append(
        f"bundled model, {dtype}: {len(prompts) - len(parted)} of {len(prompts)} texts are the CPU's to the last of "
        f"{len(tokens[0])} tokens; the others part at leads of {sorted(ties.values())}"
    )
    assert all(lead <= NEAR[dtype] for lead in ties.values()), ties
