"""Plait beside llama.cpp and OpenVINO GenAI on one GGUF file: pairs of runs, ratios, shares of the machine's ceilings.

    python benchmarks/vs_peers.py model.gguf --llama-python PATH [--openvino-python PATH]

Each round runs every contender once, each in a process of its own, one after the other (A B C, A B C ...); what counts
is the ratio within a round. Before the rounds llama.cpp runs once with each of a few settings, and takes the best for
each figure into the rounds. PATH is an interpreter that has llama-cpp-python, or openvino-genai; a contender without
one is left out, and said to be. Results go to benchmarks/results/ with the facts of the machine, unless --no-save.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import ceilings
from peers_report import OURS, Key, Rates, Work, best_settings, ceiling, compare, keys_of, rates_of, records, table

from plait.cli.bench import parse_counts
from plait.errors import PlaitError
from plait.formats.hub import resolve_model
from plait.formats.open import open_model

HERE = Path(__file__).resolve().parent
LLAMA_SETTINGS: dict[str, dict[str, Any]] = {
    "repack, ubatch 512": {"repack": True, "ubatch": 512},
    "repack, ubatch 2048": {"repack": True, "ubatch": 2048},
    "no repack, ubatch 512": {"repack": False, "ubatch": 512},
    "no repack, ubatch 128": {"repack": False, "ubatch": 128},
    "repack, unified KV": {"repack": True, "ubatch": 512, "unified": True},
}
"""Flash attention is on, and both thread counts are --threads, in all of them."""
QUIET_LOAD = 0.3
PROCESS_TIMEOUT_S = 3600

Row: TypeAlias = tuple[int, int, int]
Lines: TypeAlias = list[dict[str, Any]]


class ContenderError(Exception):
    """A contender's process failed."""


def run_process(command: Sequence[str]) -> Lines:
    """Run a contender; the JSON lines that it printed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_TIMEOUT_S, check=False)
    except OSError as error:
        raise ContenderError(f"cannot start {command[0]}: {error.strerror}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ContenderError(f"{Path(command[0]).name} exited with {done.returncode}: {last}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


class Contest:
    """One model, one grid of rows, and the processes that run it."""

    def __init__(self, args: argparse.Namespace, model: Path) -> None:
        self.model, self.threads, self.repeat = model, args.threads, args.repeat
        self._lists = [parse_counts(flag, getattr(args, flag[1:]), low) for flag, low in GRID]
        pps, tgs, pls = self._lists
        self.rows: list[Row] = [(pp, tg, pl) for pp in pps for tg in tgs for pl in pls]
        self.keys = keys_of(self.rows)
        self.versions: dict[str, str] = {}
        self.settings: dict[Key, str] = {}
        self._args = args

    def contenders(self) -> dict[str, Callable[[], Rates]]:
        """In the order in which a round runs them. Says which are left out, and why."""
        found: dict[str, Callable[[], Rates]] = {}
        if self._args.llama_python:
            self.settings = self._tune()
            found["llama.cpp"] = self._llama_round
        else:
            print("llama.cpp is left out: give --llama-python, an interpreter that has llama-cpp-python")
        if self._args.openvino_python:
            try:
                self._peer("openvino", self._args.openvino_python, "peer_openvino.py", [(16, 1, 1)], {})
                found["openvino"] = self._openvino_round
            except ContenderError as error:
                print(f"OpenVINO GenAI is left out: {error}")
        else:
            print("OpenVINO GenAI is left out: give --openvino-python, an interpreter that has openvino-genai")
        return found | {OURS: self._plait_round}

    def _tune(self) -> dict[Key, str]:
        """llama.cpp's best setting for each figure, from one run each."""
        tried = {}
        for name, setting in list(LLAMA_SETTINGS.items())[: 1 if self._args.no_tune else None]:
            say(f"trying llama.cpp: {name}")
            tried[name] = self._llama(self.rows, setting)
        return best_settings(tried)

    def _llama(self, rows: Sequence[Row], setting: Mapping[str, Any]) -> Rates:
        return self._peer("llama.cpp", self._args.llama_python, "peer_llama_cpp.py", rows, setting)

    def _llama_round(self) -> Rates:
        rates: dict[Key, float] = {}
        for name in dict.fromkeys(self.settings.values()):
            mine = [key for key, best in self.settings.items() if best == name]
            measured = self._llama(
                [row for row in self.rows if any(key[1:] == row for key in mine)], LLAMA_SETTINGS[name]
            )
            rates |= {key: measured[key] for key in mine}
        return rates

    def _openvino_round(self) -> Rates:
        return self._peer("openvino", self._args.openvino_python, "peer_openvino.py", self.rows, {})

    def _peer(self, name: str, python: str, script: str, rows: Sequence[Row], setting: Mapping[str, Any]) -> Rates:
        job = {"model": str(self.model), "threads": self.threads, "rows": rows, "repeat": self.repeat}
        job["shared"] = self._args.pps
        version, *lines = run_process([python, str(HERE / script), json.dumps(job | {"setting": setting})])
        self.versions[name] = version["version"]
        return rates_of(lines)

    def _plait_round(self) -> Rates:
        grid = [part for (flag, _), counts in zip(GRID, self._lists, strict=True) for part in (flag, _join(counts))]
        command = [sys.executable, "-m", "plait", "bench", "-m", str(self.model), *grid, "-t", str(self.threads)]
        command += ["-b", str(self._args.batch), "--repeat", str(self.repeat), "--json", *self._args.plait_args.split()]
        command += ["-pps"] if self._args.pps else []
        return rates_of(run_process(command))


GRID = (("-npp", 1), ("-ntg", 0), ("-npl", 1))


def run_rounds(contenders: Mapping[str, Callable[[], Rates]], pairs: int) -> dict[str, list[Rates]]:
    rounds: dict[str, list[Rates]] = {name: [] for name in contenders}
    for i in range(pairs):
        for name, measure in contenders.items():
            say(f"round {i + 1} of {pairs}: {name}")
            rounds[name].append(measure())
    return rounds


def best_of(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Ceilings flip with what else runs on the host: the higher of two measurements is nearer to the truth."""
    return {name: max(value, second.get(name, 0.0)) for name, value in first.items()}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _join(values: Sequence[int]) -> str:
    return ",".join(map(str, values))


def _save(folder: Path, stem: str, report: Mapping[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y-%m-%d}-vs-peers-{stem}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", help="a GGUF file; default: the bundled model")
    parser.add_argument("-npp", default="128", help="prompt tokens, a list as in plait bench")
    parser.add_argument("-ntg", default="64", help="tokens to decode, a list")
    parser.add_argument("-npl", default="1,4,8,16,32", help="sequences at once, a list")
    parser.add_argument(
        "-pps", action="store_true", help="one prompt for all sequences (OpenVINO GenAI computes it for each)"
    )
    parser.add_argument("--pairs", type=int, default=5, help="rounds; medians of fewer than five say little")
    parser.add_argument("--repeat", type=int, default=1, help="runs of a row within a process; their median counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--batch", type=int, default=2048, help="Plait's token budget of a step; llama.cpp's n_batch is 2048"
    )
    parser.add_argument("--llama-python", help="an interpreter that has llama-cpp-python")
    parser.add_argument("--openvino-python", help="an interpreter that has openvino-genai")
    parser.add_argument("--plait-args", default="", help="further options of plait bench, in one string")
    parser.add_argument("--no-tune", action="store_true", help="llama.cpp with its first setting only")
    parser.add_argument("--no-ceilings", action="store_true", help="do not measure what the machine can do at most")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the result file")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args()
    if min(args.pairs, args.repeat, args.threads, args.batch) < 1:
        parser.error("--pairs, --repeat, --threads and --batch must be at least 1")
    return args


def main() -> None:
    args = _arguments()
    try:
        model = resolve_model(args.model)
        tensors = [(t.name, t.format, t.shape, t.nbytes) for t in open_model(model).tensors.values()]
        contest = Contest(args, model)
    except PlaitError as error:
        sys.exit(f"vs_peers: error: {error}")
    facts = ceilings.machine_facts()
    if os.getloadavg()[0] > QUIET_LOAD:
        print(f"The machine is not quiet (load {os.getloadavg()[0]:.1f}): the figures say little.")
    limits = {} if args.no_ceilings else ceilings.measure(args.threads)
    try:
        rounds = run_rounds(contest.contenders(), args.pairs)
    except ContenderError as error:
        sys.exit(f"vs_peers: error: {error}")
    limits = best_of(limits, ceilings.measure(args.threads)) if limits else {}
    work = Work.of(tensors)
    comparisons = [compare(key, rounds, ceiling(key, work, limits, args.batch)) for key in contest.keys]
    print(
        f"\n{model.name}, {args.threads} threads, medians of {args.pairs} rounds, tokens/s; ratio to the better peer\n"
    )
    print(table(comparisons))
    if limits:
        print("\nceilings: " + ", ".join(f"{ceilings.NAMES[name]} {value:.1f}" for name, value in limits.items()))
    report = {"machine": facts, "ceilings": limits, "model": model.name, "versions": contest.versions}
    report |= {"threads": args.threads, "n_batch": args.batch, "repeat": args.repeat, "pairs": args.pairs}
    report["shared_prompt"] = args.pps
    report["llama_settings"] = [{"figure": key, "setting": name} for key, name in contest.settings.items()]
    report["comparisons"] = records(comparisons)
    if not args.no_save:
        print(f"written to {_save(args.out, model.stem, report)}")


if __name__ == "__main__":
    main()
