"""benchmarks/adaptive_report.py: what is made of the runs."""

from __future__ import annotations

from typing import Any

import pytest

from support.scripts import load_script

report = load_script("adaptive_report")


def run(seed: int, policy: str, in_time: float, probe_ms: float = 1.5) -> dict[str, Any]:
    return {"seed": seed, "policy": policy, "in_time": in_time, "requests": 50, "probe_ms": probe_ms}


RUNS = [
    run(1, "np 1, b 256", 0.5),
    run(1, report.ADAPTIVE, 0.7),
    run(1, report.DEFAULT, 0.4, 2.5),
    run(1, "np 2, b 256", 0.3),
    run(1, report.ADAPTIVE, 0.5),
    run(2, report.DEFAULT, 0.9),
    run(2, report.ADAPTIVE, 0.8),
    run(2, "np 1, b 256", 0.2),
    run(3, report.ADAPTIVE, 0.8),
]


def test_a_trace_is_told_by_the_best_the_default_and_the_mean_of_the_adaptive_runs() -> None:
    one, two = report.rows(RUNS)
    assert (one.seed, one.best_name, one.best, one.default) == (1, "np 1, b 256", 0.5, 0.4)
    assert one.twice == (0.7, 0.5)
    assert one.over_best == pytest.approx(0.2)
    assert one.over_default == pytest.approx(0.5)
    assert one.ranks == (1, 3, 4)
    assert one.steps_ms == (1.5, 2.5)
    assert one.has_room
    assert not two.has_room, "0.9 and a fifth more is over all requests"
    assert two.ranks == (2, 1, 3)


def test_the_report_names_the_traces_where_a_bound_does_not_hold() -> None:
    said = report.report(RUNS)
    assert "| 1 | 50 | np 1, b 256: 50.0% | 40.0% | 60.0% (70.0%, 50.0%) | +20.0% | +50.0% | 1, 3 of 4 |" in said
    assert "| -11.1% (no room) | 2, 1 of 3 |" in said
    assert "more than 2% below the best fixed setting of its trace: [2]" in said
    assert "of the 1 of 2 traces where that has room (under 83.3% in time): nowhere" in said
    assert f"all traces: 70.0% in time; the best single setting, {report.DEFAULT}, 65.0% (+7.7%)" in said
    assert "yet" in report.report(RUNS[-1:])


def test_a_default_that_serves_nobody_is_no_division_by_nothing() -> None:
    (row,) = report.rows([run(1, report.ADAPTIVE, 0.5), run(1, report.DEFAULT, 0.0)])
    assert "from nothing" in report.line(row)
    (row,) = report.rows([run(1, report.ADAPTIVE, 0.0), run(1, report.DEFAULT, 0.0)])
    assert row.over_default == 0.0
