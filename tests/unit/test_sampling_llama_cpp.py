"""The chain against llama.cpp's own samplers, from the answers in tests/golden (see the maker script beside them)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plait.ops import candidates as stages
from plait.ops import mirostat
from plait.ops.candidates import Candidates
from plait.ops.penalties import dry, penalise
from plait.types import SamplingParams

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sampling_llama_cpp.json").read_text())
CASES = GOLDEN["cases"]


def apply(stage: str, p: dict[str, Any], candidates: Candidates, history: list[int]) -> Candidates:
    match stage:
        case "penalties":
            params = SamplingParams(
                repeat_last_n=p["last_n"], repeat_penalty=p["repeat"], frequency_penalty=p["frequency"],
                presence_penalty=p["presence"],
            )  # fmt: skip
            return penalise(candidates, params, history)
        case "dry":
            params = SamplingParams(
                dry_multiplier=p["multiplier"], dry_base=p["base"], dry_allowed_length=p["allowed_length"],
                dry_penalty_last_n=p["last_n"],
            )  # fmt: skip
            return dry(candidates, params, history, tuple(tuple(b) for b in p["breakers"]))
        case "top_k":
            return stages.top_k(candidates, p["k"])
        case "typ_p":
            return stages.typical_p(candidates, p["p"])
        case "top_p":
            return stages.top_p(candidates, p["p"])
        case "min_p":
            return stages.min_p(candidates, p["p"])
        case "temperature":
            return stages.temperature(candidates, p["t"])
        case "top_n_sigma":
            return stages.top_n_sigma(candidates, p["n"])
        case "xtc":
            return stages.xtc(candidates, p["threshold"])
        case "mirostat" | "mirostat_v2":
            version = 1 if stage == "mirostat" else 2
            return mirostat.thinned(candidates, version, 2 * p["tau"], len(candidates.logits))
    raise ValueError(stage)


NAMES = [f"{i}-{'+'.join(step['stage'] for step in case['steps'])}" for i, case in enumerate(CASES)]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_every_stage_leaves_what_llama_cpp_leaves(case: dict[str, Any]) -> None:
    candidates = Candidates(None, np.array(case["logits"], np.float32))
    for step in case["steps"]:
        candidates = apply(step["stage"], step["params"], candidates, case["history"])
        ids = range(len(candidates.logits)) if candidates.ids is None else candidates.ids.tolist()
        assert list(ids) == [token for token, _ in step["left"]], step["stage"]
        assert candidates.logits.tolist() == pytest.approx([x for _, x in step["left"]], rel=1e-5, abs=1e-5)


def test_the_golden_cases_exercise_penalties_and_dry() -> None:
    changed = {
        step["stage"]
        for case in CASES
        for step in case["steps"][:1]
        if step["stage"] in ("penalties", "dry") and [x for _, x in step["left"]] != case["logits"]
    }
    assert changed == {"penalties", "dry"}
