"""Guesses on the bundled model: a text that repeats its context takes far fewer steps, and says the same."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from plait import LLM
from support.scripts import BENCHMARKS


@pytest.fixture
def speculation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("speculation")


def test_a_refrain_takes_less_than_a_third_of_the_steps(speculation: ModuleType) -> None:
    (prompt,) = speculation.prompts(1)
    told = {}
    for most in (0, 16):
        with LLM(adaptive="off", draft_max=most) as llm:
            (one,) = llm.generate([prompt], speculation.GREEDY)
            told[most] = one.text, llm.stats.steps
    assert told[0][0] == told[16][0]
    assert told[0][1] >= speculation.GENERATE
    assert told[16][1] < told[0][1] / 3
