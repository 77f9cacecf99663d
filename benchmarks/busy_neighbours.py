"""Decode speed of the bundled model while other processes keep the CPUs busy.

    python benchmarks/busy_neighbours.py [--rounds 5] [--seconds 1] [--save NAME]

Two threads alone, beside one and beside two processes that only spin, and one thread in the same company, all in
turn, round after round. The fair share of two CPUs is theirs less what each spinning process would get if the system
shared CPUs evenly among all busy threads. Medians of the rounds. On a machine that others use, too, "alone" is not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cpu_step import PAGE, PAGES, step

from plait.formats.hub import resolve_model
from plait.formats.open import open_model
from plait.models.registry import load_model
from plait.ops.api import KVConfig
from plait.ops.cpu import CpuBackend, CpuExecutable

RESULTS = Path(__file__).resolve().parent / "results"
THREADS = 2
NEIGHBOURS = (0, 1, 2)
SEQUENCES = (1, 8)
KEYS = 128


@dataclass(frozen=True)
class Row:
    """Tokens per second with `threads` threads beside `neighbours` spinning processes, the median of the rounds."""

    sequences: int
    threads: int
    neighbours: int
    rate: float


def fair_share(neighbours: int, threads: int = THREADS, cpus: int = 2) -> float:
    """What an even sharing of the CPUs among all busy threads leaves `threads` of them, as a part of what they have
    alone: with two threads on two CPUs and two neighbours, a half."""
    share = min(1.0, cpus / (threads + neighbours))
    return share * threads / min(threads, cpus)


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """So many processes that do nothing but keep a CPU busy."""
    children = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.1 if children else 0)
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def rate(executable: CpuExecutable, sequences: int, seconds: float) -> float:
    """Tokens per second over that time: all steps, not the best one."""
    inputs = step(sequences, KEYS, 1)
    for _ in range(5):
        executable.run(inputs)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        executable.run(inputs)
        steps += 1
    return steps * sequences / (time.perf_counter() - start)


def measure(rounds: int, seconds: float, neighbours: tuple[int, ...] = NEIGHBOURS) -> list[Row]:
    program = load_model(open_model(resolve_model(None))).program
    executables = {
        threads: CpuBackend(threads).compile(program, KVConfig(PAGE, (PAGES,), "f16")) for threads in (1, THREADS)
    }
    found: dict[tuple[int, int, int], list[float]] = {}
    for _ in range(rounds):
        for count in neighbours:
            with spinning(count):
                for sequences in SEQUENCES:
                    for threads, executable in executables.items():
                        key = (sequences, threads, count)
                        found.setdefault(key, []).append(rate(executable, sequences, seconds))
    return [Row(*key, median(rates)) for key, rates in sorted(found.items())]


def ratios(rows: list[Row]) -> Iterator[tuple[Row, float, float, float]]:
    """Each row of two threads, with its ratio to alone, to the fair share, and to one thread in the same company."""
    by_key = {(row.sequences, row.threads, row.neighbours): row.rate for row in rows}
    for row in rows:
        if row.threads == THREADS:
            alone = row.rate / by_key[row.sequences, THREADS, 0]
            to_one = row.rate / by_key[row.sequences, 1, row.neighbours]
            yield row, alone, alone / fair_share(row.neighbours), to_one


def table(rows: list[Row]) -> str:
    lines = ["| sequences | neighbours | tokens/s | to alone | to the fair share | to one thread |"]
    lines.append("|---|---|---|---|---|---|")
    for row, alone, fair, one in ratios(rows):
        lines.append(f"| {row.sequences} | {row.neighbours} | {row.rate:,.0f} | {alone:.2f} | {fair:.2f} | {one:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    parser.add_argument("--save", metavar="NAME", help="keep the figures as results/NAME.json")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    rows = measure(args.rounds, args.seconds)
    print(table(rows))
    slower = [row for row, _, _, one in ratios(rows) if one < 1]
    print("two threads were " + ("slower than one in some rows" if slower else "never slower than one"))
    print(f"load average before: {load:.2f}")
    if args.save:
        facts = {"threads": THREADS, "rounds": args.rounds, "seconds": args.seconds, "load_before": load}
        report = facts | {"rows": [{**row.__dict__} for row in rows]}
        (RESULTS / f"{args.save}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
