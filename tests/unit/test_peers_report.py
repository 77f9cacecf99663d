"""The arithmetic of the comparison with peers: pairs, the better peer, the share of the ceilings."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROW = ("decode", 128, 64, 4)


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peers_report")


def test_ratios_are_taken_pair_by_pair_against_the_better_peer(report: ModuleType) -> None:
    rounds = {
        "a": [{ROW: v} for v in (10.0, 10.0, 40.0)],
        "b": [{ROW: v} for v in (20.0, 25.0, 20.0)],
        "plait": [{ROW: v} for v in (40.0, 100.0, 80.0)],
    }
    made = report.compare(ROW, rounds, 160.0)
    assert made.medians == {"plait": 80.0, "a": 10.0, "b": 20.0}
    assert made.ratios == {"a": [4.0, 10.0, 2.0], "b": [2.0, 4.0, 4.0]}
    assert (made.better, made.ratio, made.share_of_ceiling) == ("b", 4.0, 0.5)
    text = report.table([made])
    assert "| decode | 128 | 64 | 4 | 80.0 | 10.0 | 20.0 | 4.00 | 2.00 to 4.00 | 160 | 50% |" in text
    assert json.loads(json.dumps(report.records([made])))[0]["better"] == "b"


def test_without_peers_and_ceilings_there_is_no_ratio(report: ModuleType) -> None:
    made = report.compare(ROW, {"plait": [{ROW: 5.0}]}, None)
    assert (made.better, made.ratio, made.share_of_ceiling) == (None, None, None)
    assert "5.0" in report.table([made])


def test_the_best_setting_is_chosen_for_each_figure(report: ModuleType) -> None:
    prefill = ("prefill", 128, 64, 4)
    tried = {"x": {ROW: 5.0, prefill: 1.0}, "y": {ROW: 4.0, prefill: 2.0}}
    assert report.best_settings(tried) == {ROW: "x", prefill: "y"}


def test_lines_become_rates_and_nothing_decoded_is_no_figure(report: ModuleType) -> None:
    lines = [{"pp": 8, "tg": 0, "pl": 1, "speed_pp": 5.0, "speed_tg": 0.0}]
    assert report.rates_of(lines) == {("prefill", 8, 0, 1): 5.0}
    assert report.keys_of([(8, 0, 1)]) == [("prefill", 8, 0, 1)]
    assert report.keys_of([(8, 2, 1)]) == [("prefill", 8, 2, 1), ("decode", 8, 2, 1)]


TENSORS = [
    ("token_embd.weight", "Q8_0", (100, 10), 1000),
    ("blk.0.attn_q.weight", "Q8_0", (20, 10), 200),
    ("blk.0.attn_norm.weight", "F32", (10,), 40),
]


def test_work_counts_the_head_once_and_an_untied_embedding_not_at_all(report: ModuleType) -> None:
    tied = report.Work.of(TENSORS)
    assert tied == report.Work(step_bytes=1200, layer_macs=200, head_macs=1000, integer=True)
    untied = report.Work.of([*TENSORS, ("output.weight", "F16", (100, 10), 2000)])
    assert untied == report.Work(step_bytes=2200, layer_macs=200, head_macs=1000, integer=True)
    assert not report.Work.of([("blk.0.x.weight", "F16", (2, 2), 8)]).integer


def test_the_ceiling_is_memory_for_one_sequence_and_arithmetic_for_many(report: ModuleType) -> None:
    work = report.Work(step_bytes=10**9, layer_macs=10**9, head_macs=0, integer=True)
    limits = {"read_gb_s": 10.0, "int8_gop_s": 100.0, "f32_gflop_s": 1.0}
    assert report.ceiling(("decode", 9, 9, 1), work, limits) == pytest.approx(10)
    assert report.ceiling(("decode", 9, 9, 100), work, limits) == pytest.approx(50)
    assert report.ceiling(("prefill", 512, 9, 1), work, limits) == pytest.approx(50)
    assert report.ceiling(("decode", 9, 9, 1), work, {"numpy_read_gb_s": 9.0}) is None


def test_prefill_pays_for_one_row_of_logits_a_prompt(report: ModuleType) -> None:
    work = report.Work(step_bytes=1, layer_macs=10**9, head_macs=10**9, integer=True)
    limits = {"read_gb_s": 1e9, "int8_gop_s": 100.0}
    assert report.ceiling(("prefill", 10, 9, 4), work, limits) == pytest.approx(50 * 10 / 11)


def test_facts_of_the_machine_fit_into_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    ceilings = importlib.import_module("ceilings")
    facts = json.loads(json.dumps(ceilings.machine_facts()))
    assert facts["cpu"]
    assert facts["usable_cpus"] >= 1
    assert ceilings.numpy_ceilings(0.01, 1)["numpy_read_gb_s"] > 0
