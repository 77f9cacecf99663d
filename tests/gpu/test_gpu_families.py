"""Every family on a GPU, with the kernels, against the numpy reference: prompts whole, in chunks, token by token."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from gpu_report import Measured, Report

from plait.ops.cuda import open_cuda
from plait.ops.reference import ReferenceBackend
from support.families import load_tiny, new_driver
from support.schedules import Logits, Schedule, chunked, decoded, whole
from support.tiny_models import PROMPTS, tiny_models

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

BOUNDS = {"f32": 1e-3, "f16": 0.15}
"""Largest difference of a logit, over the standard deviation of the logits."""
RUNS: dict[str, Schedule] = {"whole": whole, "chunked": chunked, "decoded": decoded}


@cache
def reference(name: str) -> Logits:
    return whole(new_driver(load_tiny(name, "safetensors"), ReferenceBackend()), PROMPTS)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", tiny_models())
def test_logits_are_those_of_the_reference(name: str, dtype: str, device: str, report: Report) -> None:
    backend = open_cuda(device, dtype, kernels=device != "cpu")
    want, worst = reference(name), 0.0
    for run in RUNS.values():
        got = run(new_driver(load_tiny(name, "safetensors"), backend, dtype), PROMPTS)
        for prompt, logits in got.items():
            worst = max(worst, float(np.abs(logits - want[prompt]).max() / np.std(want[prompt])))
    report.rows.append(Measured(name, dtype, worst, BOUNDS[dtype]))
    assert worst < BOUNDS[dtype]
