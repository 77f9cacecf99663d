"""benchmarks/apart.py: which runs are to be done, and what is told of them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from support.scripts import BENCHMARKS

FIXED, ORDERED = "np 2, b 512", "np 2, b 512, ordered"


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("apart")


def test_there_is_each_of_25_limits_with_the_order_and_without(apart: ModuleType) -> None:
    found = dict(apart.variants())
    assert len(found) == 50
    assert "adaptive" not in found[FIXED]
    assert found[ORDERED]["fixed_limits"]
    assert not found["adaptive"]["ordered"]
    assert "ordered" not in found["adaptive, ordered"]


def test_what_is_found_is_not_run_again_and_what_is_told_of_each_trace_comes_first(apart: ModuleType) -> None:
    found = {"7": {name: 0.5 for name, _ in apart.variants() if not name.endswith("ordered")}, "9": {}}
    found["7"][FIXED] = 0.6
    jobs = list(apart.jobs(found, [7, 9], 5.0))
    assert len(jobs) == 25 + 50
    assert [job.name for job in jobs[:3]] == ["adaptive", "adaptive, ordered", "adaptive, ordered"]
    ordered = [job.name for job in jobs if job.seed == 7 and job.name.startswith("np")]
    assert ordered[:2] == ["np 8, b 1024, ordered", ORDERED]
    assert all(job.number == (7, 9).index(job.seed) for job in jobs)


def test_earlier_results_are_fixed_limits_without_the_order_and_the_controller_s_with_it(
    apart: ModuleType, tmp_path: Path
) -> None:
    file = tmp_path / "replay.json"
    file.write_text(
        json.dumps({"outcomes": {"mixed bursty 7": {FIXED: {"in_time": 0.4}, "adaptive": {"in_time": 0.9}}}})
    )
    assert apart.earlier(file) == {"7": {FIXED: 0.4, "adaptive, ordered": 0.9}}


def test_the_table_has_the_best_of_the_plain_and_of_the_ordered(apart: ModuleType) -> None:
    found = {name: 0.5 for name, _ in apart.variants()}
    found |= {FIXED: 0.6, "np 4, b 256, ordered": 0.7, "adaptive": 0.8, "adaptive, ordered": 0.9}
    lines = apart.table({"7": found}).splitlines()
    assert lines[2] == ("| 7 | 50.0% | 50.0% | np 2, b 512: 60.0% | 50.0% | np 4, b 256: 70.0% | 80.0% | 90.0% |")
    assert lines[3] == "| mean | 50.0% | 50.0% | 60.0% | 50.0% | 70.0% | 80.0% | 90.0% |"
