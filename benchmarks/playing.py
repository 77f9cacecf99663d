"""Plays a load trace to a real model in real time, and counts the requests that were in time.

Prompts and answers are those of the trace, so that conversations find what they said: the model computes and draws, and
the trace's token is taken. A request is in time when its first token comes within 500 ms of its arrival, and at most
one of its gaps in a hundred is over 50 ms.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from plait.api.model import Model
from plait.config import EngineOptions
from plait.control.steptime import StepTime
from plait.engine.build import assemble_engine, kv_config, make_backend
from plait.engine.core import Engine
from plait.formats.tensor import F32Array
from plait.metrics.records import LATE_SHARE
from plait.ops.api import Executable, I32Array, KVConfig, StepInputs
from plait.ops.sampling import Sampled, SampleRow
from plait.sim.simulation import SimConfig, Simulation
from plait.sim.trace import ANSWER_BASE, TraceRequest
from plait.types import EngineRequest, SamplingParams

TTFT_S, ITL_S = 0.5, 0.05
KV_MEMORY_MIB = 512
FIRST_ID = 300
"""Lower ids are special and byte tokens."""
GRACE_S = 3.0
"""After the last arrival a run goes on until the fate of every request is known, but no longer than this."""
PROBE_ROWS, PROBE_STEPS = 8, 40


class Played:
    """A model whose draws cost what they cost, and are then those of the trace."""

    def __init__(self, inner: Executable, vocab: int) -> None:
        self._inner, self._vocab = inner, vocab

    def run(self, step: StepInputs) -> F32Array:
        return self._inner.run(step)

    def sample(self, logits: F32Array, picks: Sequence[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        drawn = self._inner.sample(logits, picks, rows)
        return [
            one._replace(token=as_id(ANSWER_BASE + row.position, self._vocab))
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


class Stage:
    """A model compiled once, for many engines one after the other: each begins with an empty cache and, if it adapts,
    with a second of calibration."""

    def __init__(self, model: Model) -> None:
        options = EngineOptions(kv_memory=KV_MEMORY_MIB)
        self._model = model
        self._kv: KVConfig = kv_config(model.loaded.kv, options, model.context_length)
        compiled = make_backend(options).compile(model.loaded.program, self._kv)
        self._executable = Played(compiled, model.vocab_size)

    def engine(self, options: EngineOptions) -> Engine:
        return assemble_engine(self._executable, self._model.loaded.kv, self._kv, options, self._model.context_length)

    def play(self, options: EngineOptions, trace: list[TraceRequest]) -> Outcome:
        engine = self.engine(options)
        try:
            return play(engine, trace, self._model.vocab_size)
        finally:
            engine.close()

    def probe_ms(self) -> float:
        """Milliseconds of a step with eight sequences now, the median of forty: how fast the machine is."""
        engine = self.engine(fixed_options(PROBE_ROWS, 256))
        for number in range(PROBE_ROWS):
            engine.add(asked(f"p{number}", TraceRequest(0.0, "", ((number, 20),), PROBE_STEPS), self._model.vocab_size))
        for _ in engine.run():
            pass
        seconds = [record.seconds for record in engine.records if not record.prompt_tokens]
        engine.close()
        return 1000 * float(np.median(seconds))

    def slowness(self, burst: list[TraceRequest], machine: StepTime) -> float:
        """How many times as long as on `machine` these requests take if they come all at once, 32 of them served
        together with 512 tokens a step: real seconds over those of the simulator."""
        burst = [replace(one, at_s=0.0) for one in burst]
        simulated = Simulation(SimConfig(machine=machine, n_parallel=32, n_batch=512)).run(burst).seconds
        engine = self.engine(fixed_options(32, 512))
        for number, one in enumerate(burst):
            engine.add(asked(f"b{number}", one, self._model.vocab_size))
        start = time.perf_counter()
        for _ in engine.run():
            pass
        seconds = time.perf_counter() - start
        engine.close()
        return seconds / simulated


def fixed_options(places: int, budget: int) -> EngineOptions:
    return EngineOptions(kv_memory=KV_MEMORY_MIB, n_parallel=places, n_batch=budget, adaptive="off")


def adaptive_options() -> EngineOptions:
    return EngineOptions(kv_memory=KV_MEMORY_MIB, calibrate=1.0)


@dataclass(frozen=True)
class Outcome:
    """`goodput` is requests in time a second of the trace, `met` their number and `in_time` their share; medians and
    99% in milliseconds, of those that had a first token (0 where there are none). `open` requests were out of time, or
    still in time at the very end, when the run was ended."""

    goodput: float
    met: int
    in_time: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float
    seconds: float
    hit_rate: float
    open: int


@dataclass
class Life:
    """One request: when it came, the tokens that it will have, and when they came so far."""

    at_s: float
    tokens: int
    times: list[float] = field(default_factory=list)
    late_gaps: int = 0

    def token(self, now: float) -> None:
        if self.times and now - self.times[-1] > ITL_S:
            self.late_gaps += 1
        self.times.append(now)

    def is_late(self, now: float) -> bool:
        """Whether it has missed a bound by now."""
        first = self.times[0] if self.times else now
        return first - self.at_s > TTFT_S or self.late_gaps > LATE_SHARE * (self.tokens - 1)


def play(engine: Engine, trace: list[TraceRequest], vocab: int) -> Outcome:
    """The trace in real time, until it is known of each request whether it is in time. Who streams within both bounds
    until `GRACE_S` after the last arrival counts as in time."""
    lives: dict[str, Life] = {}
    watched: dict[str, Life] = {}  # those of which it is not known yet
    coming, begin, now = list(reversed(trace)), time.perf_counter(), 0.0
    end = trace[-1].at_s + GRACE_S
    while coming or (watched and now < end):
        now = time.perf_counter() - begin
        while coming and coming[-1].at_s <= now:
            traced = coming.pop()
            name = f"t{len(lives)}"
            lives[name] = watched[name] = Life(traced.at_s, traced.output_tokens)
            engine.add(asked(name, traced, vocab))
        if not engine.has_work:
            time.sleep(max(0.0, min(coming[-1].at_s - now, 0.005)) if coming else 0.0)
            continue
        events = engine.step()
        now = time.perf_counter() - begin
        for event in events:
            assert event.error is None
            if event.tokens:
                lives[event.request_id].token(now)
            if event.final:
                watched.pop(event.request_id, None)
        if not coming:
            watched = {name: life for name, life in watched.items() if not life.is_late(now)}
    return outcome(list(lives.values()), trace[-1].at_s, now, engine)


def asked(name: str, traced: TraceRequest, vocab: int) -> EngineRequest:
    return EngineRequest(
        request_id=name,
        prompt=tuple(as_id(token, vocab) for token in traced.tokens()),
        sampling=SamplingParams(max_tokens=traced.output_tokens, temperature=0.0, seed=1),
        stop_token_ids=frozenset({-1}),
        salt=traced.tenant,
        tenant=traced.tenant,
    )


def outcome(lives: list[Life], last_s: float, seconds: float, engine: Engine) -> Outcome:
    met = sum(not life.is_late(seconds) for life in lives)
    waits = 1000 * np.array([life.times[0] - life.at_s for life in lives if life.times] or [0.0])
    between = 1000 * np.concatenate([np.diff(life.times) for life in lives if len(life.times) > 1] or [np.zeros(1)])
    stats = engine.stats
    return Outcome(
        goodput=met / last_s,
        met=met,
        in_time=met / len(lives),
        ttft_p50_ms=float(np.quantile(waits, 0.5)),
        ttft_p99_ms=float(np.quantile(waits, 0.99)),
        itl_p50_ms=float(np.quantile(between, 0.5)),
        itl_p99_ms=float(np.quantile(between, 0.99)),
        seconds=seconds,
        hit_rate=stats.cached_tokens / max(stats.cached_tokens + stats.prompt_tokens, 1),
        open=sum(len(life.times) < life.tokens for life in lives),
    )
