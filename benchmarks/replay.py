"""Goodput, latencies, fairness and hit rate of fixed limits and of the controller, over load traces in virtual time.

    python benchmarks/replay.py [--machine bundled] [--seeds 0-4] [--kinds chat,mixed] [--json FILE] [--svg FILE]
    python benchmarks/replay.py --trace FILE --speed 10        a Mooncake (.jsonl) or BurstGPT (.csv) trace instead

Runs the real scheduler and engine loop; only the model is replaced, by its step times. One core, no model file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from replay_chart import draw

from plait.control.steptime import StepTime
from plait.metrics.records import Bounds
from plait.sim.clock import Noise
from plait.sim.load import make_trace, quiet_to_peak
from plait.sim.simulation import Outcome, SimConfig, Simulation
from plait.sim.trace import TraceRequest, fitted, read_trace

PLACES = (1, 2, 4, 8, 16, 32)
BUDGETS = (256, 512, 1024, 2048)
DEFAULT = "np 8, b 1024"
ADAPTIVE = "adaptive"
CONTEXT = 8192


@dataclass(frozen=True)
class Machine:
    """Step times, and the bounds that one may hope for on it."""

    times: StepTime
    bounds: Bounds


MACHINES = {
    "bundled": Machine(StepTime(0.00035, 0.0001, 0.00008, 1e-7), Bounds(0.5, 0.05)),
    "1b": Machine(StepTime(0.019, 0.003, 0.0033, 1e-6), Bounds(5.0, 0.2)),
}
"""The bundled model, and a model of a billion parameters in 4 bits, on two Zen 4 cores (TARGETS, section 1)."""
LOADS = (("chat", True), ("documents", False), ("mixed", True))


def policies(adaptive_only: bool, machine: Machine) -> Iterator[tuple[str, dict[str, object]]]:
    """The adaptive one begins with what a calibration could have told: the step times, a fifth too high."""
    if not adaptive_only:
        for places in PLACES:
            for budget in BUDGETS:
                yield f"np {places}, b {budget}", {"n_parallel": places, "n_batch": budget}
    times = machine.times
    prior = StepTime(*(1.2 * term for term in (times.step, times.decode_row, times.prompt_token, times.key_read)))
    yield ADAPTIVE, {"adaptive": "balanced", "prior": prior}


def seeds_of(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def traces(options: argparse.Namespace, machine: Machine) -> Iterator[tuple[str, list[TraceRequest]]]:
    if options.trace:
        path = Path(options.trace)
        yield path.name, list(fitted(read_trace(path), context=CONTEXT, speed=options.speed, most=options.most))
        return
    for kind, bursty in LOADS:
        for seed in seeds_of(options.seeds) if kind in options.kinds.split(",") else ():
            load = quiet_to_peak(kind, seed, phase_s=options.phase, bursty=bursty)
            yield f"{kind}{' bursty' if bursty else ''} {seed}", list(make_trace(load, machine.times))


def replay(trace: list[TraceRequest], machine: Machine, fields: dict[str, object], seed: int) -> Outcome:
    noise = Noise(sigma=0.05, outlier_share=0.002, outlier=3.0, seed=seed)
    config = SimConfig(
        machine=machine.times, bounds=machine.bounds, context_length=CONTEXT, pages=16384, noise=noise, **fields
    )  # type: ignore[arg-type]
    return Simulation(config).run(trace)


def line(name: str, outcome: Outcome) -> str:
    return (
        f"  {name:16} goodput {outcome.goodput:7.3f}/s ({outcome.in_time:5.1%})  "
        f"TTFT {outcome.ttft_p50_s:6.3f} {outcome.ttft_p99_s:7.3f}  "
        f"ITL {outcome.itl_p50_s:.4f} {outcome.itl_p99_s:.4f}  "
        f"fair {outcome.fairness:.3f}  hits {outcome.hit_rate:.0%}  preempted {outcome.preemptions}"
    )


def summary(found: dict[str, dict[str, Outcome]]) -> dict[str, object]:
    """Of each trace: the best fixed setting, the gain over it and over the default; and the least and mean of both."""
    rows = {}
    for trace, outcomes in found.items():
        fixed = {name: outcome.goodput for name, outcome in outcomes.items() if name != ADAPTIVE}
        best = max(fixed, key=lambda name: fixed[name])
        mine = outcomes[ADAPTIVE].goodput
        rows[trace] = {"best": best, "over_best": mine / fixed[best] - 1, "over_default": mine / fixed[DEFAULT] - 1}
    total = {name: sum(outcomes[name].goodput for outcomes in found.values()) for name in next(iter(found.values()))}
    best = max((name for name in total if name != ADAPTIVE), key=lambda name: total[name])
    over_best = [row["over_best"] for row in rows.values()]
    over_default = [row["over_default"] for row in rows.values()]
    return {
        "traces": rows,
        "least_over_best": min(over_best),
        "mean_over_best": sum(over_best) / len(rows),
        "least_over_default": min(over_default),
        "mean_over_default": sum(over_default) / len(rows),
        "all_traces_over_default": total[ADAPTIVE] / total[DEFAULT] - 1,
        "best_single_setting": best,
        "all_traces_over_best_single": total[ADAPTIVE] / total[best] - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", choices=MACHINES, default="bundled")
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--kinds", default="chat,documents,mixed")
    parser.add_argument("--phase", type=float, default=5.0, help="seconds of each phase of a generated load")
    parser.add_argument("--trace", help="a trace file instead of generated loads")
    parser.add_argument("--speed", type=float, default=1.0, help="replay the file so many times as fast")
    parser.add_argument("--most", type=int, help="only so many requests of the file")
    parser.add_argument("--adaptive-only", action="store_true")
    parser.add_argument("--json", help="write the results there; with --merge, of these files together")
    parser.add_argument("--merge", nargs="+", default=[], help="results of earlier runs, instead of new ones")
    parser.add_argument("--svg")
    options = parser.parse_args()
    machine = MACHINES[options.machine]
    found: dict[str, dict[str, Outcome]] = {}
    start = time.process_time()
    for file in options.merge:
        of_file = json.loads(Path(file).read_text())["outcomes"]
        found |= {name: {p: Outcome(**o) for p, o in outcomes.items()} for name, outcomes in of_file.items()}
    for number, (name, trace) in enumerate(() if options.merge else traces(options, machine)):
        print(f"{name}: {len(trace)} requests, {trace[-1].at_s:.0f} s", flush=True)
        found[name] = {}
        for policy, fields in policies(options.adaptive_only, machine):
            found[name][policy] = replay(trace, machine, fields, number)
            print(line(policy, found[name][policy]), flush=True)
    if not found:
        sys.exit("no traces: give --kinds out of " + ", ".join(kind for kind, _ in LOADS))
    print(f"{time.process_time() - start:.0f} s of processor time")
    if options.adaptive_only:
        return
    report = {"machine": options.machine, "model": asdict(machine.times), "bounds": asdict(machine.bounds)}
    report |= {"phase_s": options.phase, "summary": summary(found)}
    print(json.dumps(report["summary"], indent=1))
    if options.json:
        report["outcomes"] = {name: {p: asdict(o) for p, o in outcomes.items()} for name, outcomes in found.items()}
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.svg:
        shares = {name: {p: o.in_time for p, o in outcomes.items()} for name, outcomes in found.items()}
        Path(options.svg).write_text(draw(f"Requests in time, {options.machine} model", shares, DEFAULT, ADAPTIVE))


if __name__ == "__main__":
    main()
