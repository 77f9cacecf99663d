"""benchmarks/vs_peers.py as a user runs it, with a stand-in for llama.cpp's interpreter; and ceilings.py's program."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.tiny_llama import TinyLlama

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PEER = """#!{python}
import json, sys
job = json.loads(sys.argv[2])
with open({log!r}, "a") as log:
    print(json.dumps(job["setting"]), file=log)
fast = 100 * job["setting"]["ubatch"] + job["setting"]["repack"]
print("noise")
print(json.dumps({{"version": "stand-in 1"}}))
for pp, tg, pl in job["rows"]:
    print(json.dumps({{"pp": pp, "tg": tg, "pl": pl, "speed_pp": fast * pl, "speed_tg": 1e6 / fast}}))
"""
GRID = ["-npp", "16", "-ntg", "4", "-npl", "1,2", "--threads", "1", "--no-ceilings"]


def vs_peers(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "vs_peers.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(TinyLlama().save("gguf", tmp_path_factory.mktemp("peers")))


def test_rounds_are_paired_and_the_best_settings_are_used(model: str, tmp_path: Path) -> None:
    log, peer = tmp_path / "log", tmp_path / "python"
    peer.write_text(PEER.format(python=sys.executable, log=str(log)))
    peer.chmod(0o755)
    nothing = tmp_path / "nothing"
    nothing.write_text("#!/bin/sh\necho no such module >&2\nexit 1\n")
    nothing.chmod(0o755)
    done = vs_peers(model, *GRID, "--pairs", "2", "--out", str(tmp_path / "results"), "--llama-python", str(peer),
                    "--openvino-python", str(nothing))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "OpenVINO GenAI is left out: nothing exited with 1: no such module" in done.stdout
    (result,) = (tmp_path / "results").glob("*-vs-peers-tiny.json")
    report = json.loads(result.read_text())
    chosen = {(s["figure"][0], s["figure"][3]): s["setting"] for s in report["llama_settings"]}
    assert chosen["prefill", 1] == "repack, ubatch 2048"
    assert chosen["decode", 1] == "no repack, ubatch 128"
    settings = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(settings) == 5 + 2 * 2  # five tried, then two of them in each of two rounds
    prefill = next(c for c in report["comparisons"] if (c["what"], c["b"]) == ("prefill", 2))
    assert prefill["medians"]["llama.cpp"] == 2 * (100 * 2048 + 1)
    assert len(prefill["ratios"]["llama.cpp"]) == 2
    assert prefill["better"] == "llama.cpp"
    assert report["versions"] == {"llama.cpp": "stand-in 1"}
    assert report["machine"]["cpu"]


def test_plait_alone_says_who_is_left_out_and_writes_nothing(model: str, tmp_path: Path) -> None:
    done = vs_peers(model, *GRID, "--pairs", "1", "--no-save", "--out", str(tmp_path / "results"))
    assert done.returncode == 0, done.stderr
    assert "llama.cpp is left out" in done.stdout
    assert "OpenVINO GenAI is left out" in done.stdout
    assert "| decode | 16 | 4 | 2 |" in done.stdout
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["missing.gguf"], "missing.gguf"),
        (["-npl", "x"], "-npl"),
        (["--pairs", "0"], "--pairs"),
        (["{model}", "--llama-python", "/no/such/python", "--no-ceilings"], "/no/such/python"),
    ],
)
def test_bad_input_is_said(args: list[str], said: str, model: str) -> None:
    done = vs_peers(*[arg.format(model=model) for arg in args], "--no-save")
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_ceilings_program_compiles_and_measures(tmp_path: Path) -> None:
    program = tmp_path / "ceilings"
    flags = ["-O2", "-march=native", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["c++", *flags, str(BENCHMARKS / "ceilings.cpp"), "-o", str(program)], check=True)
    done = subprocess.run([str(program), "2", "0.02", "8"], capture_output=True, text=True, check=True)
    values = {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}
    assert {"read_gb_s", "f32_gflop_s"} <= set(values)
    assert all(0.1 < value < 1e5 for value in values.values())
    assert subprocess.run([str(program), "0", "1", "1"], check=False).returncode == 2
