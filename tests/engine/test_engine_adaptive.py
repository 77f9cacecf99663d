"""The bundled model with the controller: calibration is short and harmless, limits move, answers do not."""

from __future__ import annotations

import time

import pytest

from plait import LLM, SamplingParams
from plait.control.records import MOVED
from plait.errors import OptionError
from plait.metrics import catalogue as c
from plait.metrics.prometheus import prometheus_text


def test_calibration_teaches_and_changes_no_token() -> None:
    params = SamplingParams(max_tokens=24, temperature=0, seed=1)
    prompts = [f"Once upon a time there were {n} mice" for n in range(12)]
    with LLM(adaptive="off", n_parallel=3) as plain:
        wanted = [[s.token_ids for s in made.samples] for made in plain.generate(prompts, params)]
    start = time.monotonic()
    with LLM(calibrate=0.3, slo="ttft=300ms,itl=2s") as llm:
        spent = time.monotonic() - start
        controller = llm._engine.controller
        assert controller is not None
        assert controller.fit.ready
        assert [[s.token_ids for s in made.samples] for made in llm.generate(prompts, params)] == wanted
        assert llm.stats.steps > 0
        snapshot = llm._engine.snapshot()
        assert llm._engine._scheduler.limits.n_parallel > 8  # twelve prompts wait for eight places: it rises
        assert snapshot.value(c.DECISIONS, "n_parallel") >= 1
        reasons = [why for decision in controller.decisions for why in decision.reasons]
        assert all(any(limit in why for limit in MOVED) for why in reasons)
        assert 'plait_limit{limit="n_parallel"}' in prometheus_text(snapshot)
        assert snapshot.value(c.MODEL, "step") + snapshot.value(c.MODEL, "decode_row") > 0
    assert spent < 30  # the calibration is a third of a second; the rest is loading, on a busy machine


def test_given_limits_stay() -> None:
    with LLM(n_parallel=2, n_batch=64) as llm:
        assert llm._engine.controller is None
    with LLM(n_parallel=2, profile="latency") as llm:
        llm.generate(["a", "b", "c", "d", "e"], SamplingParams(max_tokens=30, seed=1, ignore_eos=True))
        assert llm._engine._scheduler.limits.n_parallel == 2
        assert max(record.sequences for record in llm._engine.records) == 2
    with pytest.raises(OptionError, match="--slo"):
        LLM(slo="fast")
