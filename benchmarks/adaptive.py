"""The controller beside fixed limits, in real time on a real model: `python benchmarks/adaptive.py [model] --seed 300`.

The trace of `replay.py` (mixed tenants in bursts, from quiet to more than the machine can do) is played to an engine of
each policy in turn, `--rounds` times. It is made for the step times of the bundled model on two quiet Zen 4 cores;
`--scale 2` makes it for a machine half as fast. Prompts and answers are those of the
trace, so that conversations find what they said: the model computes and draws, and the trace's token is taken. A
request is in time when its first token comes within 500 ms of its arrival, and at most one gap in a hundred is over 50
ms. `--save` adds the outcome to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

import numpy as np
from saving import save

from plait.api.model import Model
from plait.config import EngineOptions
from plait.control.steptime import StepTime
from plait.engine.build import assemble_engine, kv_config, make_backend
from plait.engine.core import Engine
from plait.formats.tensor import F32Array
from plait.metrics.records import LATE_SHARE
from plait.ops.api import Executable, I32Array, StepInputs
from plait.ops.sampling import Sampled, SampleRow
from plait.sim.load import make_trace, quiet_to_peak
from plait.sim.trace import ANSWER_BASE, TraceRequest, fitted
from plait.types import EngineRequest, SamplingParams

TTFT_S, ITL_S = 0.5, 0.05
KV_MEMORY_MIB = 512
QUIET = StepTime(0.00107, 0.0001, 0.000072, 2e-7)
"""As a calibration found them."""
DEFAULT = "np 8, b 1024"
FIRST_ID = 300
"""Lower ids are special and byte tokens."""


class Played:
    """A model whose draws cost what they cost, and are then those of the trace."""

    def __init__(self, inner: Executable, vocab: int) -> None:
        self._inner, self._vocab = inner, vocab

    def run(self, step: StepInputs) -> F32Array:
        return self._inner.run(step)

    def sample(self, logits: F32Array, picks: Sequence[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        drawn = self._inner.sample(logits, picks, rows)
        return [
            replace(one, token=as_id(ANSWER_BASE + row.position, self._vocab))
            for one, row in zip(drawn, rows, strict=True)
        ]

    def read_slots(self, group: int, slots: I32Array) -> bytes:
        return self._inner.read_slots(group, slots)

    def write_slots(self, group: int, slots: I32Array, data: bytes) -> None:
        self._inner.write_slots(group, slots, data)

    def kv_bytes(self) -> int:
        return self._inner.kv_bytes()


def as_id(name: int, vocab: int) -> int:
    """A token of the model for a token of the trace."""
    return FIRST_ID + name * 7919 % (vocab - FIRST_ID)


@dataclass(frozen=True)
class Outcome:
    """`goodput` is requests in time a second of the trace, `in_time` their share; medians and 99% in milliseconds."""

    goodput: float
    in_time: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float
    seconds: float
    hit_rate: float


def play(engine: Engine, trace: list[TraceRequest], vocab: int) -> Outcome:
    """The whole trace in real time, until its last request has ended."""
    arrived: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    coming, begin = list(reversed(trace)), time.perf_counter()
    while coming or engine.has_work:
        now = time.perf_counter() - begin
        while coming and coming[-1].at_s <= now:
            traced = coming.pop()
            name = f"t{len(arrived)}"
            arrived[name] = traced.at_s
            engine.add(asked(name, traced, vocab))
        if not engine.has_work:
            time.sleep(max(0.0, min(coming[-1].at_s - now, 0.005)))
            continue
        events = engine.step()
        now = time.perf_counter() - begin
        for event in events:
            assert event.error is None
            if event.tokens:
                times.setdefault(event.request_id, []).append(now)
    return outcome(arrived, times, trace[-1].at_s, time.perf_counter() - begin, engine)


def asked(name: str, traced: TraceRequest, vocab: int) -> EngineRequest:
    return EngineRequest(
        request_id=name,
        prompt=tuple(as_id(token, vocab) for token in traced.tokens()),
        sampling=SamplingParams(max_tokens=traced.output_tokens, temperature=0.0, seed=1),
        stop_token_ids=frozenset({-1}),
        salt=traced.tenant,
        tenant=traced.tenant,
    )


def outcome(
    arrived: dict[str, float], times: dict[str, list[float]], last_s: float, seconds: float, engine: Engine
) -> Outcome:
    ttft = {name: of[0] - arrived[name] for name, of in times.items()}
    gaps = {name: np.diff(of) for name, of in times.items()}
    met = sum(
        ttft[name] <= TTFT_S and np.count_nonzero(gaps[name] > ITL_S) <= LATE_SHARE * len(gaps[name]) for name in times
    )
    waits, between = 1000 * np.array(list(ttft.values())), 1000 * np.concatenate(list(gaps.values()))
    stats = engine.stats
    return Outcome(
        goodput=met / last_s,
        in_time=met / len(arrived),
        ttft_p50_ms=float(np.quantile(waits, 0.5)),
        ttft_p99_ms=float(np.quantile(waits, 0.99)),
        itl_p50_ms=float(np.quantile(between, 0.5)),
        itl_p99_ms=float(np.quantile(between, 0.99)),
        seconds=seconds,
        hit_rate=stats.cached_tokens / max(stats.cached_tokens + stats.prompt_tokens, 1),
    )


def engine_of(model: Model, options: EngineOptions) -> Engine:
    kv = kv_config(model.loaded.kv, options, model.context_length)
    executable = Played(make_backend(options).compile(model.loaded.program, kv), model.vocab_size)
    return assemble_engine(executable, model.loaded.kv, kv, options, model.context_length)


def policies(fixed: str) -> dict[str, EngineOptions]:
    """The adaptive one and the default, and fixed ones from a text like "32x256,16x512"."""
    found = {"adaptive": EngineOptions(kv_memory=KV_MEMORY_MIB, calibrate=1.0)}
    for text in ["8x1024", *(fixed.split(",") if fixed else ())]:
        places, _, budget = text.partition("x")
        found[f"np {places}, b {budget}"] = EngineOptions(
            kv_memory=KV_MEMORY_MIB, n_parallel=int(places), n_batch=int(budget), adaptive="off"
        )
    return found


def line(name: str, one: Outcome) -> str:
    return (
        f"  {name:14} goodput {one.goodput:6.2f}/s ({one.in_time:5.1%})   TTFT {one.ttft_p50_ms:6.1f} "
        f"{one.ttft_p99_ms:7.1f} ms   ITL {one.itl_p50_ms:5.1f} {one.itl_p99_ms:6.1f} ms   hits {one.hit_rate:.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--seed", type=int, default=300)
    parser.add_argument("--phase", type=float, default=2.0, help="seconds of each of the seven phases")
    parser.add_argument("--speed", type=float, default=1.6, help="play it so many times as fast, think times too")
    parser.add_argument("--fixed", default="32x256,16x256", help="fixed limits beside the default")
    parser.add_argument("--scale", type=float, default=1.0, help="step times over those of the quiet machine")
    parser.add_argument("--seconds", type=float, default=1e9, help="play only the beginning of the trace")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    model = Model.load(given.model)
    machine = StepTime(
        *(given.scale * term for term in (QUIET.step, QUIET.decode_row, QUIET.prompt_token, QUIET.key_read))
    )
    load = quiet_to_peak("mixed", given.seed, phase_s=given.phase, bursty=True)
    trace = list(fitted(make_trace(load, machine), context=model.context_length, speed=given.speed))
    trace = [one for one in trace if one.at_s <= given.seconds]
    print(f"seed {given.seed}: {len(trace)} requests in {trace[-1].at_s:.0f} s", flush=True)
    found: dict[str, list[Outcome]] = {}
    for _ in range(given.rounds):
        for name, options in policies(given.fixed).items():
            engine = engine_of(model, options)
            found.setdefault(name, []).append(play(engine, trace, model.vocab_size))
            engine.close()
            print(line(name, found[name][-1]), flush=True)
    goodput = {name: median(one.goodput for one in outcomes) for name, outcomes in found.items()}
    best = max((name for name in found if name != "adaptive"), key=lambda name: goodput[name])
    mine = goodput["adaptive"]
    print(f"  over the best fixed ({best}) {mine / goodput[best] - 1:+.1%}, over the default ", end="")
    print(f"{mine / goodput[DEFAULT] - 1:+.1%}")
    if given.save:
        figures: dict[str, object] = {"seed": given.seed, "phase_s": given.phase, "speed": given.speed}
        figures |= {"requests": len(trace), "step_times_s": asdict(machine)}
        figures |= {"median_answer": median(one.output_tokens for one in trace)}
        figures |= {"outcomes": {name: [asdict(one) for one in outcomes] for name, outcomes in found.items()}}
        print(f"written to {save(f'adaptive-{given.seed}', figures)}")


if __name__ == "__main__":
    main()
