"""benchmarks/replay.py: the comparison it draws from outcomes, and its chart."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from plait.sim.simulation import Outcome

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DEFAULT, ADAPTIVE = "np 8, b 1024", "adaptive"


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("replay")


def outcome(goodput: float) -> Outcome:
    return Outcome(**{field.name: 0 for field in fields(Outcome)} | {"goodput": goodput})  # type: ignore[arg-type]


def test_gains_are_over_the_best_and_over_the_default(replay: ModuleType) -> None:
    found = {
        "a": {"np 1, b 256": outcome(4.0), DEFAULT: outcome(2.0), ADAPTIVE: outcome(5.0)},
        "b": {"np 1, b 256": outcome(1.0), DEFAULT: outcome(10.0), ADAPTIVE: outcome(9.0)},
    }
    assert (replay.DEFAULT, replay.ADAPTIVE) == (DEFAULT, ADAPTIVE)
    made = replay.summary(found)
    assert made["least_over_best"] == pytest.approx(-0.1)
    assert made["mean_over_best"] == pytest.approx((0.25 - 0.1) / 2)
    assert made["least_over_default"] == pytest.approx(-0.1)
    assert made["all_traces_over_default"] == pytest.approx(14 / 12 - 1)
    assert made["best_single_setting"] == DEFAULT


def test_the_chart_is_svg_with_a_mark_for_each_policy(replay: ModuleType) -> None:
    shares = {"x & y": {"np 1": 0.5, DEFAULT: 0.7, ADAPTIVE: 1.0}}
    root = ElementTree.fromstring(replay.draw("t <1>", shares, DEFAULT, ADAPTIVE))
    circles = [c for c in root.iter("{http://www.w3.org/2000/svg}circle") if c.get("cy") != "44"]
    assert [c.get("fill") for c in circles] == ["#b0b0b0", "#1b6ca8", "#d1495b"]
    assert replay.seeds_of("100-102") == [100, 101, 102]
    assert replay.seeds_of("7") == [7]
