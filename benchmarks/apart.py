"""What the order of requests and the moving of limits each give, over load traces in virtual time:

    python benchmarks/apart.py --seeds 700-704 --out FILE [--jobs 2] [--earlier RESULTS-OF-REPLAY]

Of each trace of `replay.py` (mixed, bursty) the 24 fixed limits and the controller's, each with the order by promise
(decision 33) and without. The order with fixed limits is a controller's that may move no limit. The file is written
after each run, and one that is there is gone on with.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias

from replay import ADAPTIVE, BUDGETS, DEFAULT, MACHINES, PLACES, replay, seeds_of

from plait.control.steptime import StepTime
from plait.sim.load import make_trace, quiet_to_peak

MACHINE = MACHINES["bundled"]
ORDERED = ", ordered"
"""What is added to the name of limits that have the order by promise."""

Shares: TypeAlias = dict[str, float]


def variants() -> Iterator[tuple[str, dict[str, Any]]]:
    """Names, and what they are for the simulator. The prior is that of `replay.py`."""
    prior = StepTime(*(1.2 * term for term in MACHINE.times.terms().values()))
    controlled = {"adaptive": "balanced", "prior": prior}
    for places in PLACES:
        for budget in BUDGETS:
            limits = {"n_parallel": places, "n_batch": budget}
            yield f"np {places}, b {budget}", limits
            yield f"np {places}, b {budget}{ORDERED}", {**limits, **controlled, "fixed_limits": True}
    yield ADAPTIVE, {**controlled, "ordered": False}
    yield ADAPTIVE + ORDERED, controlled


@dataclass(frozen=True)
class Job:
    """One variant on the trace of a seed, the `number`-th of a run of `replay.py`."""

    seed: int
    number: int
    name: str
    phase_s: float

    def in_time(self) -> float:
        """The share of requests in time."""
        load = quiet_to_peak("mixed", self.seed, phase_s=self.phase_s, bursty=True)
        trace = list(make_trace(load, MACHINE.times))
        return replay(trace, MACHINE, dict(variants())[self.name], self.number).in_time


def jobs(found: dict[str, Shares], seeds: list[int], phase_s: float) -> Iterator[Job]:
    """What is not found yet: first the controller's limits and the default, then the best of the fixed limits without
    the order (which have to be found by then), then the rest, many places first."""
    names = [ADAPTIVE, ADAPTIVE + ORDERED, DEFAULT, DEFAULT + ORDERED]
    names += [name for name, _ in variants() if name not in names and not name.endswith(ORDERED)]
    first = [(number, seed, name) for name in names for number, seed in enumerate(seeds)]
    rest = [
        (number, seed, name)
        for name, _ in reversed(list(variants()))
        for number, seed in enumerate(seeds)
        if name not in names
    ]
    rest.sort(key=lambda job: job[2] != best(found[str(job[1])], False) + ORDERED)
    for number, seed, name in first + rest:
        if name not in found[str(seed)]:
            yield Job(seed, number, name, phase_s)


def earlier(file: Path) -> dict[str, Shares]:
    """From the results of `replay.py`: fixed limits without the order, and the controller's with it."""
    found: dict[str, Shares] = {}
    for trace, outcomes in json.loads(file.read_text())["outcomes"].items():
        shares = {name: outcome["in_time"] for name, outcome in outcomes.items()}
        shares[ADAPTIVE + ORDERED] = shares.pop(ADAPTIVE)
        found[trace.split()[-1]] = shares
    return found


def best(found: Shares, ordered: bool) -> str:
    """The fixed limits with the most requests in time."""
    names = [name for name in found if not name.startswith(ADAPTIVE) and name.endswith(ORDERED) == ordered]
    return max(names, key=lambda name: found[name], default=DEFAULT)


def table(found: dict[str, Shares]) -> str:
    """A line for each trace: shares in time of the default, the best fixed and the controller's limits, by order."""
    lines = [
        "| seed | default | ordered | best fixed | ordered | best of the ordered | adaptive | ordered |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for seed, of in found.items():
        plain, ordered = best(of, False), best(of, True)
        names = (DEFAULT, DEFAULT + ORDERED, plain, plain + ORDERED, ordered, ADAPTIVE, ADAPTIVE + ORDERED)
        row = [of[name] for name in names]
        rows.append(row)
        cells = [f"{share:.1%}" for share in row]
        cells[2] = f"{plain}: {cells[2]}"
        cells[4] = f"{ordered.removesuffix(ORDERED)}: {cells[4]}"
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    lines.append("| mean | " + " | ".join(f"{mean(column):.1%}" for column in zip(*rows, strict=True)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--phase", type=float, default=5.0, help="seconds of each phase")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--earlier", type=Path, help="results of one run of replay.py on these seeds, not run again")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    seeds = seeds_of(given.seeds)
    found: dict[str, Shares] = {str(seed): {} for seed in seeds}
    if given.out.exists():
        found = json.loads(given.out.read_text())["shares_in_time"]
    elif given.earlier:
        found = {seed: shares for seed, shares in earlier(given.earlier).items() if seed in found}
    with ProcessPoolExecutor(given.jobs) as pool:
        todo = list(jobs(found, seeds, given.phase))
        for job, share in zip(todo, pool.map(Job.in_time, todo), strict=True):
            found[str(job.seed)][job.name] = share
            print(f"{job.seed} {job.name}: {share:.1%}", flush=True)
            about = {"machine": MACHINE.times.terms(), "phase_s": given.phase, "shares_in_time": found}
            given.out.write_text(json.dumps(about, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
