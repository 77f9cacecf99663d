"""What sharing saves on the bundled model, by the counts of `benchmarks/sharing.py`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from plait import LLM
from support.scripts import BENCHMARKS


@pytest.fixture
def sharing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("sharing")


@pytest.fixture
def llm() -> Iterator[LLM]:
    with LLM(n_parallel=8, n_batch=1024) as llm:
        yield llm


def test_requests_that_share_a_prefix_compute_it_once(sharing: ModuleType, llm: LLM) -> None:
    found = sharing.shared_prefix(llm)
    assert found.unique == 3560
    assert found.over_unique <= 1.02
    assert found.hit_rate == pytest.approx(found.saved)


def test_equal_prompts_are_computed_once(sharing: ModuleType, llm: LLM) -> None:
    found = sharing.equal_prompts(llm)
    assert found.unique == 1063
    assert found.over_unique <= 1.02


def test_a_conversation_of_ten_turns_saves_four_fifths(sharing: ModuleType, llm: LLM) -> None:
    found = sharing.conversation(llm)
    assert found.saved > 0.8
    assert found.over_unique <= 1.02
    assert found.hit_rate == pytest.approx(found.saved)
