"""benchmarks/adaptive.py: a trace played to a real model in real time."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from plait.api.model import Model
from plait.config import EngineOptions
from plait.sim.trace import ANSWER, TraceRequest
from support.scripts import BENCHMARKS


@pytest.fixture
def adaptive(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("adaptive")


def test_a_conversation_of_the_trace_finds_what_it_said(adaptive: ModuleType) -> None:
    model = Model.load(None)
    engine = adaptive.engine_of(model, EngineOptions(kv_memory=32, n_parallel=4, n_batch=256, adaptive="off"))
    trace = [
        TraceRequest(0.0, "a", ((7, 100),), 20),
        TraceRequest(0.1, "b", ((9, 50),), 5),
        TraceRequest(1.5, "a", ((7, 100), (ANSWER, 20), (8, 30)), 6),
    ]
    found = adaptive.play(engine, trace, model.vocab_size)
    engine.close()
    assert found.seconds >= 1.5
    assert found.hit_rate == pytest.approx(119 / (100 + 50 + 150))
    assert 0 <= found.in_time <= 1
    assert found.goodput == pytest.approx(found.in_time * 3 / 1.5)
    assert 0 < found.itl_p50_ms <= found.itl_p99_ms
    assert 0 < found.ttft_p50_ms <= found.ttft_p99_ms


def test_limits_are_named_by_places_and_budget(adaptive: ModuleType) -> None:
    found = adaptive.policies("32x256")
    assert list(found) == ["adaptive", adaptive.DEFAULT, "np 32, b 256"]
    assert (found["np 32, b 256"].n_parallel, found["np 32, b 256"].n_batch) == (32, 256)
    assert not found["adaptive"].fixed
