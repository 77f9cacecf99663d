"""`plait bench` as a user meets it: a process, its table, its JSON, its chart; and what it leaves in KV memory."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from plait.api.bench import Bench, BenchCase
from plait.config import EngineOptions
from plait.errors import OptionError
from plait.formats.tensor import F32Array
from plait.models.registry import LoadedModel, load_model
from plait.ops.api import Executable, StepInputs
from plait.ops.sampling import Sampled, SampleRow
from support.tiny_llama import TinyLlama

PLAIT = [sys.executable, "-W", "error", "-m", "plait"]
COLUMNS = ["PP", "TG", "B", "N_KV", "T_PP_s", "S_PP_t/s", "T_TG_s", "S_TG_t/s", "T_s", "S_t/s"]


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PLAIT, "bench", *args], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyLlama().save("gguf", tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(TinyLlama().source("gguf"))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_llama_batched_benchs_columns(model: Path) -> None:
    done = bench("-m", str(model), "-npp", "8,20", "-ntg", "4", "-npl", "1-4*2", "-b", "16")
    assert done.returncode == 0, done.stderr
    head, rule, *rows = done.stdout.splitlines()
    assert [cell.replace(" ", "_") for cell in cells(head)] == COLUMNS
    assert len({len(line) for line in done.stdout.splitlines()}) == 1
    assert set(rule) == set("|-:")
    table = [list(map(float, cells(row))) for row in rows]
    assert [row[:3] for row in table] == [[pp, 4, b] for pp in (8, 20) for b in (1, 2, 4)]
    for pp, tg, b, n_kv, t_pp, s_pp, t_tg, s_tg, t, s in table:
        assert n_kv == b * (pp + tg)
        assert t == pytest.approx(t_pp + t_tg, abs=0.002)
        assert min(s_pp, s_tg, s) > 0
    assert "Python" in done.stderr


def test_json_has_its_arithmetic_right_and_a_shared_prompt_counts_once(model: Path, tmp_path: Path) -> None:
    plot = tmp_path / "chart.svg"
    case = ("-npp", "20", "-ntg", "5", "-npl", "1,3", "-pps", "--sample", "--repeat", "3")
    done = bench("-m", str(model), *case, "--json", "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["pl"] for row in rows] == [1, 3]
    for row in rows:
        assert row["n_kv"] == 20 + row["pl"] * 5
        assert row["is_pp_shared"] is True
        assert row["speed_pp"] == pytest.approx(20 / row["t_pp"], rel=0.02)
        assert row["speed_tg"] == pytest.approx(row["pl"] * 5 / row["t_tg"], rel=0.02)
        assert row["speed"] == pytest.approx(row["n_kv"] / row["t"], rel=0.02)
        assert 0 < row["python_share_tg"] < 1
        assert 0 < row["sample_share_tg"] < 1
        assert row["peak_memory_mib"] > 10
        assert row["load_s"] > 0
        assert (row["repeat"], row["sampled"], row["model"]) == (3, True, "tiny.gguf")
    assert ET.parse(plot).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-npp", "x"], "-npp"),
        (["-npp", "0"], "-npp"),
        (["-npl", "8-1"], "-npl"),
        (["-npl", ""], "-npl"),
        (["-ntg", "-5"], "-ntg"),
        (["--repeat", "0"], "--repeat"),
        (["-b", "0"], "--batch-size"),
        (["-ctk", "q9"], "q9"),
        (["-npp", "128", "-ntg", "1"], "context"),
        (["-npp", "64", "-c", "32"], "-c"),
        (["-npp", "64", "-ntg", "4", "-npl", "500", "--kv-memory", "1"], "KV memory"),
        (["--plot", "chart.png"], ".svg"),
        (["--plot", "no/such/folder/chart.svg"], "no/such/folder"),
        (["-ngl", "99"], "-ngl"),
        (["-np", "4"], "-n"),
        (["words"], "words"),
        (["-m", "missing.gguf", "--plot", "left.svg"], "missing.gguf"),
    ],
)
def test_bad_input_is_one_line_that_says_what(args: list[str], said: str, model: Path) -> None:
    done = bench("-m", str(model), *args)
    assert done.returncode != 0
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == ""
    assert not Path("left.svg").exists()


class Watched:
    """Runs nothing for real: remembers the steps."""

    def __init__(self, inner: Executable) -> None:
        self.inner, self.steps = inner, list[StepInputs]()

    def run(self, step: StepInputs) -> object:
        self.steps.append(step)
        return self.inner.run(step)

    def sample(self, logits: F32Array, picks: Sequence[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        return self.inner.sample(logits, picks, rows)


def steps_of(loaded: LoadedModel, case: BenchCase, n_batch: int, sample: bool = False) -> list[StepInputs]:
    runner = Bench(loaded, EngineOptions(device="reference", n_batch=n_batch), [case], sample=sample)
    watched = Watched(runner._executable)
    runner._executable = watched  # type: ignore[assignment]
    runner.measure(case)
    runner._cache.check()
    assert runner._cache.stats().held == (0,)
    return watched.steps


def test_steps_are_full_and_decode_has_a_row_of_logits_for_each_sequence(loaded: LoadedModel) -> None:
    steps = steps_of(loaded, BenchCase(10, 3, 4), n_batch=16)
    assert [len(step.tokens) for step in steps] == [16, 16, 8, 4, 4, 4]
    assert sum(len(step.out_rows) for step in steps[:3]) == 4
    for number, step in enumerate(steps[3:]):
        assert step.positions.tolist() == [10 + number] * 4
        assert step.out_rows.tolist() == [0, 1, 2, 3]


def test_a_shared_prompt_is_computed_once_and_its_pages_are_shared(loaded: LoadedModel) -> None:
    steps = steps_of(loaded, BenchCase(35, 2, 3, shared=True), n_batch=64)
    assert [len(step.tokens) for step in steps] == [35, 0, 3, 3]  # the step without rows copies the ragged page
    assert [copy.count for copy in steps[1].kv[0].copies] == [3, 3]
    last = steps[-1].kv[0]
    tables = [last.entries[a:b] for a, b in zip(last.entry_start, last.entry_start[1:], strict=False)]
    assert [int(table[:, 2].sum()) for table in tables] == [37, 37, 37]
    assert len({tuple(table[:2, 0].tolist()) for table in tables}) == 1  # two whole pages of 16, in common
    assert len({int(table[2, 0]) for table in tables}) == 3  # the ragged third is each one's own


def test_given_tokens_are_the_same_each_time_and_sampled_ones_come_from_the_logits(loaded: LoadedModel) -> None:
    case = BenchCase(10, 4, 2)
    first, again = (steps_of(loaded, case, 64) for _ in range(2))
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(first, again, strict=True))
    sampled = steps_of(loaded, case, 64, sample=True)
    assert np.array_equal(sampled[0].tokens, first[0].tokens)
    assert any(not np.array_equal(a.tokens, b.tokens) for a, b in zip(first[1:], sampled[1:], strict=True))


def test_a_prompt_that_does_not_fit_the_context_is_refused_before_anything_runs(loaded: LoadedModel) -> None:
    with pytest.raises(OptionError, match="-c"):
        Bench(loaded, EngineOptions(device="reference"), [BenchCase(8, 2, 1), BenchCase(100, 100, 1)])
