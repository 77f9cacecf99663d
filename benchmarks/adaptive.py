"""The controller beside 24 fixed limits, in real time on a real model.

    python benchmarks/adaptive.py --seeds 1-5 --out FILE [--resume]      a run is 11 to 14 seconds, 26 of them a trace
    python benchmarks/adaptive.py --seeds 1 --settings 32x256,16x512     against a few settings
    python benchmarks/adaptive.py --report FILE                          the tables of an earlier run

Each trace is mixed tenants in bursts, seven phases from quiet to more than the machine can do, pressed into ten
seconds. How fast the machine is, is found once, before the first trace: a burst of requests of another trace takes so
many times as long as in the simulator with the bundled model's step times of two quiet Zen 4 cores; the median of
five. The rates are made for a machine that much slower, times `--load`. Every policy has the same requests.

The adaptive policy runs twice on each trace, among the first and among the last, and the order of the others is another
one for each trace, so that a machine that changes its speed does so to all alike. Before each run the time of a small
step is taken, which shows such changes. The model is compiled once; each run has an engine of its own, with an empty
cache. The file is written after each run, and `--resume` goes on where it ends, with the load that it tells of.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import ceilings
from adaptive_report import ADAPTIVE, report
from playing import Outcome, Stage, adaptive_options, fixed_options

from plait.api.model import Model
from plait.config import EngineOptions
from plait.control.steptime import StepTime
from plait.sim.load import make_trace, quiet_to_peak
from plait.sim.trace import TraceRequest, fitted

PLACES = (1, 2, 4, 8, 16, 32)
BUDGETS = (256, 512, 1024, 2048)
QUIET = StepTime(0.00107, 0.0001, 0.000072, 2e-7)
"""As a calibration found them on the bundled model."""
BURST_SEED, BURST_REQUESTS, BURSTS = 0, 24, 5


@dataclass(frozen=True)
class LoadPlan:
    """What the traces are made of, besides the seed: `slowness` is how many times as long as with `QUIET` steps take,
    `load` multiplies the rates, and think times are played `speed` times as fast."""

    seconds: float
    speed: float
    load: float
    slowness: float

    def trace(self, seed: int, context: int) -> list[TraceRequest]:
        once = quiet_to_peak("mixed", seed, phase_s=1.0, bursty=True)
        whole = quiet_to_peak("mixed", seed, phase_s=self.seconds * self.speed / once.seconds, bursty=True)
        requests = make_trace(whole, times(QUIET, self.slowness * self.speed / self.load))
        return [one for one in fitted(requests, context=context, speed=self.speed) if one.at_s <= self.seconds]


def times(machine: StepTime, factor: float) -> StepTime:
    """A machine that is slower by this factor."""
    return StepTime(*(factor * term for term in machine.terms().values()))


def slowness(stage: Stage, context: int) -> float:
    """Of this machine, by the median of some bursts."""
    burst = LoadPlan(9.0, 2.0, 1.0, 1.0).trace(BURST_SEED, context)[:BURST_REQUESTS]
    found = []
    for _ in range(BURSTS):
        found.append(stage.slowness(burst, QUIET))
        time.sleep(1.0)
    print("a burst takes " + ", ".join(f"{one:.2f}" for one in found) + " times as long as simulated", flush=True)
    return median(found)


def all_settings() -> list[str]:
    return [f"{places}x{budget}" for places in PLACES for budget in BUDGETS]


def policies(settings: Sequence[str]) -> dict[str, EngineOptions]:
    """By name. A setting is a text like "32x256"; the default is always among them."""
    found = {ADAPTIVE: adaptive_options()}
    for text in dict.fromkeys([*settings, "8x1024"]):
        places, _, budget = text.partition("x")
        found[f"np {places}, b {budget}"] = fixed_options(int(places), int(budget))
    return found


def order(names: Sequence[str], number: int) -> list[str]:
    """The runs of trace `number`: the fixed policies from another one on for each trace, the adaptive one among the
    first three and again among the last three."""
    fixed = [name for name in names if name != ADAPTIVE]
    turn = number * max(len(fixed) // 5, 1) % len(fixed)
    fixed = fixed[turn:] + fixed[:turn]
    first, last = min(number % 3, len(fixed)), max(len(fixed) - (number + 1) % 3, 0)
    fixed.insert(max(first, last), ADAPTIVE)
    fixed.insert(min(first, last), ADAPTIVE)
    return fixed


class Results:
    """The runs so far, in a file that is written anew after each."""

    def __init__(self, path: Path, plan: LoadPlan | None) -> None:
        """Without a plan the file's own is taken, and its runs are kept."""
        self._path = path
        if plan is None:
            kept = json.loads(path.read_text())
            self.plan, self.runs, self._machine = LoadPlan(**kept["load"]), kept["runs"], kept["machine"]
        else:
            self.plan, self.runs, self._machine = plan, [], ceilings.machine_facts()

    def has(self, seed: int, turn: int, policy: str) -> bool:
        for run in self.runs:
            if (run["seed"], run["turn"]) == (seed, turn):
                assert run["policy"] == policy, "the file is of other settings; give it another name"
                return True
        return False

    def add(self, seed: int, turn: int, policy: str, probe_ms: float, requests: int, outcome: Outcome) -> None:
        run = {"seed": seed, "turn": turn, "policy": policy, "requests": requests, "probe_ms": probe_ms}
        self.runs.append({**run, **asdict(outcome)})
        written = self._path.with_suffix(".part")
        about = {"machine": self._machine, "load": asdict(self.plan), "step_times_s": asdict(QUIET)}
        written.write_text(json.dumps({**about, "runs": self.runs}, indent=1) + "\n")
        written.replace(self._path)


def line(name: str, probe_ms: float, one: Outcome) -> str:
    return (
        f"  {name:14} {one.in_time:6.1%}   TTFT {one.ttft_p50_ms:6.0f} {one.ttft_p99_ms:6.0f} ms   ITL "
        f"{one.itl_p50_ms:5.1f} {one.itl_p99_ms:6.1f} ms   hits {one.hit_rate:.0%}   {one.seconds:4.1f} s   "
        f"a step of eight {probe_ms:.2f} ms"
    )


def sweep(stage: Stage, seeds: Sequence[int], settings: Sequence[str], context: int, results: Results) -> None:
    """Every policy on every trace, but for the runs that the results have."""
    chosen = policies(settings)
    for number, seed in enumerate(seeds):
        trace = results.plan.trace(seed, context)
        print(f"seed {seed}: {len(trace)} requests in {trace[-1].at_s:.1f} s", flush=True)
        for turn, name in enumerate(order(list(chosen), number)):
            if not results.has(seed, turn, name):
                probe_ms = stage.probe_ms()
                found = stage.play(chosen[name], trace)
                results.add(seed, turn, name, probe_ms, len(trace), found)
                print(line(name, probe_ms, found), flush=True)


def seeds_of(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--settings", default=",".join(all_settings()), help="fixed limits, as in 32x256,16x512")
    parser.add_argument("--seconds", type=float, default=10.5, help="of each trace's arrivals")
    parser.add_argument("--speed", type=float, default=2.0, help="think times are played so many times as fast")
    parser.add_argument("--load", type=float, default=0.7, help="times the rates")
    parser.add_argument("--slowness", type=float, help="of the machine; measured if not given")
    parser.add_argument("--out", type=Path, default=Path("adaptive.json"))
    parser.add_argument("--resume", action="store_true", help="go on with the file")
    parser.add_argument("--report", type=Path, help="print the tables of a file, and run nothing")
    given = parser.parse_args()
    if given.report:
        print(report(json.loads(given.report.read_text())["runs"]))
        return
    model = Model.load(given.model)
    stage = Stage(model)
    plan = None
    if not (given.resume and given.out.exists()):
        measured = given.slowness or slowness(stage, model.context_length)
        plan = LoadPlan(given.seconds, given.speed, given.load, measured)
    results = Results(given.out, plan)
    sweep(stage, seeds_of(given.seeds), given.settings.split(","), model.context_length, results)
    print(report(results.runs))


if __name__ == "__main__":
    main()
