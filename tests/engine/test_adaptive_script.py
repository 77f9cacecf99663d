"""benchmarks/adaptive.py: traces played to a real model in real time, and the runs that are kept."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from plait.api.model import Model
from plait.sim.trace import ANSWER, TraceRequest
from support.scripts import BENCHMARKS


@pytest.fixture
def adaptive(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("adaptive")


@pytest.fixture
def playing(adaptive: ModuleType) -> ModuleType:
    return importlib.import_module("playing")


def test_a_conversation_of_the_trace_finds_what_it_said_and_the_next_run_nothing(playing: ModuleType) -> None:
    stage = playing.Stage(Model.load(None))
    trace = [
        TraceRequest(0.0, "a", ((7, 100),), 20),
        TraceRequest(0.1, "b", ((9, 50),), 5),
        TraceRequest(1.5, "a", ((7, 100), (ANSWER, 20), (8, 30)), 6),
    ]
    for _ in range(2):
        found = stage.play(playing.fixed_options(4, 256), trace)
        assert found.seconds >= 1.5
        assert found.hit_rate == pytest.approx(119 / (100 + 50 + 150))
        assert 0 <= found.in_time <= 1
        assert found.goodput == pytest.approx(found.in_time * 3 / 1.5)
        assert found.met == pytest.approx(found.in_time * 3)
        assert 0 < found.itl_p50_ms <= found.itl_p99_ms
        assert 0 < found.ttft_p50_ms <= found.ttft_p99_ms
    assert stage.probe_ms() > 0


def test_a_run_ends_when_all_that_are_open_have_missed_their_time(
    playing: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One place, and the bounds so tight that nobody is in time: the answers of 3000 tokens are not waited for."""
    monkeypatch.setattr(playing, "TTFT_S", 0.0)
    trace = [TraceRequest(0.0, "a", ((7, 10),), 3000), TraceRequest(0.05, "a", ((8, 10),), 3000)]
    found = playing.Stage(Model.load(None)).play(playing.fixed_options(1, 256), trace)
    assert (found.met, found.open) == (0, 2)
    assert found.seconds < 2.0


def test_a_request_is_late_by_its_first_token_or_by_more_than_one_gap_in_a_hundred(playing: ModuleType) -> None:
    life = playing.Life(at_s=1.0, tokens=201)
    assert not life.is_late(1.5)
    assert life.is_late(1.51)
    life.token(1.5)
    assert not life.is_late(9.0)
    for at in (1.6, 1.61, 1.7):
        life.token(at)
    assert not life.is_late(9.0), "two of 200"
    life.token(1.8)
    assert life.is_late(9.0)


def test_limits_are_named_by_places_and_budget(adaptive: ModuleType) -> None:
    found = adaptive.policies(["32x256"])
    assert list(found) == ["adaptive", "np 32, b 256", "np 8, b 1024"]
    assert (found["np 32, b 256"].n_parallel, found["np 32, b 256"].n_batch) == (32, 256)
    assert not found["adaptive"].fixed
    assert len(adaptive.policies(adaptive.all_settings())) == 25


@pytest.mark.parametrize("settings", [["8x1024"], ["1x256", "32x2048"], None])
def test_each_fixed_policy_runs_once_and_the_adaptive_one_early_and_late(
    adaptive: ModuleType, settings: list[str] | None
) -> None:
    names = list(adaptive.policies(settings or adaptive.all_settings()))
    orders = [adaptive.order(names, number) for number in range(5)]
    for order in orders:
        assert sorted(order) == sorted([*names, "adaptive"])
        first, last = (at for at, name in enumerate(order) if name == "adaptive")
        assert first < 3
        assert last >= len(order) - 3
    if len(names) > 5:
        assert len({tuple(name for name in order if name != "adaptive") for order in orders}) == 5


def test_a_slower_machine_gets_fewer_requests_and_more_load_more(adaptive: ModuleType) -> None:
    def length(load: float, slowness: float) -> int:
        return len(adaptive.LoadPlan(10.0, 2.0, load, slowness).trace(4, 8192))

    assert length(1.0, 4.0) < length(1.0, 1.0) < length(2.0, 1.0)
    trace = adaptive.LoadPlan(10.0, 2.0, 1.0, 1.0).trace(4, 8192)
    assert 5.0 < trace[-1].at_s <= 10.0


class FakeStage:
    """Plays nothing; every run is as good as its number. Stops at run `most`."""

    def __init__(self, playing: ModuleType, most: int) -> None:
        self._outcome, self._most, self.played = playing.Outcome, most, 0

    def probe_ms(self) -> float:
        return 1.5

    def play(self, _options: Any, _trace: Any) -> Any:
        if self.played == self._most:
            raise KeyboardInterrupt
        self.played += 1
        share = self.played / 100
        return self._outcome(1.0, self.played, share, 1.0, 2.0, 3.0, 4.0, 5.0, 0.5, 0)


def test_a_run_that_was_cut_short_goes_on_where_it_ended(
    adaptive: ModuleType, playing: ModuleType, tmp_path: Path
) -> None:
    file, plan, settings = tmp_path / "found.json", adaptive.LoadPlan(10.0, 2.0, 1.0, 1.0), ["32x256", "1x256"]
    with pytest.raises(KeyboardInterrupt):
        adaptive.sweep(FakeStage(playing, 7), [5, 6], settings, 8192, adaptive.Results(file, plan))
    assert len(json.loads(file.read_text())["runs"]) == 7
    resumed = adaptive.Results(file, None)
    assert resumed.plan == plan
    stage = FakeStage(playing, 100)
    adaptive.sweep(stage, [5, 6], settings, 8192, resumed)
    assert stage.played == 3
    runs = json.loads(file.read_text())["runs"]
    assert [(run["seed"], run["turn"]) for run in runs] == [(seed, turn) for seed in (5, 6) for turn in range(5)]
    with pytest.raises(AssertionError, match="other settings"):
        adaptive.sweep(stage, [5], ["2x512"], 8192, adaptive.Results(file, None))
