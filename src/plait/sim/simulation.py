"""Replays a trace through the real engine loop in virtual time, and says how it went.

Knows engine, scheduler and cache; the machine is a step-time model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.control.controller import Controller
from plait.control.fit import StepTimeFit
from plait.control.goals import Schedule, goals_of, start_of
from plait.control.records import Setting
from plait.control.steptime import StepTime
from plait.engine.core import Engine
from plait.errors import RequestError
from plait.metrics import catalogue
from plait.metrics.meter import Meter
from plait.metrics.records import Bounds
from plait.scheduler.limits import Limits
from plait.scheduler.scheduler import Scheduler
from plait.sim.clock import Noise, SimRunner, VirtualClock
from plait.sim.fairness import Fairness
from plait.sim.trace import TraceRequest
from plait.types import EngineRequest, SamplingParams

PAGE_SIZE = 16
DEFAULT_BOUNDS = Bounds(ttft_s=0.5, itl_s=0.05)
UNKNOWN_END = frozenset({-1})
"""A stop id that never comes: for the scheduler an answer may end at any time, as in life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimConfig:
    """A machine and how it is run. `pages` of 16 tokens are its KV memory. `adaptive` names the
    profile of a controller, which starts from its limits instead of `n_batch` and `n_parallel`, holds `bounds`, and
    takes `prior` for the step times to begin with. What it does can be taken apart: with `fixed_limits` it leaves those
    two as they are given and only orders requests; without `ordered` it only moves the limits."""

    machine: StepTime
    n_batch: int = 1024
    n_parallel: int = 8
    context_length: int = 8192
    pages: int = 4096
    bounds: Bounds = DEFAULT_BOUNDS
    noise: Noise | None = None
    in_flight: int = 1
    adaptive: str = ""
    prior: StepTime | None = None
    fixed_limits: bool = False
    ordered: bool = True
    reuse: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trace went. `goodput` is the requests that met both bounds, a second of the trace's arrivals; `in_time`
    their share of all requests. Percentiles are estimates from histograms, in seconds. `seconds` is when the last
    request ended."""

    requests: int
    refused: int
    goodput: float
    in_time: float
    ttft_p50_s: float
    ttft_p99_s: float
    itl_p50_s: float
    itl_p99_s: float
    fairness: float
    hit_rate: float
    tokens_per_s: float
    utilisation: float
    steps: int
    preemptions: int
    recomputed_tokens: int
    decisions: int
    seconds: float


class Simulation:
    """One engine on one virtual machine. `clock`, `engine` and `meter` may be looked at."""

    def __init__(self, config: SimConfig) -> None:
        self.clock = VirtualClock()
        self.meter = Meter(config.bounds)
        cache = KVCache(CacheConfig(PAGE_SIZE, (config.pages + 1,), (None,)))
        limits = Limits(n_batch=config.n_batch, n_parallel=config.n_parallel, context_length=config.context_length)
        kind = Scheduler if config.ordered else Unordered
        self.scheduler = kind(cache, limits, reuse=config.reuse, clock=self.clock)
        self.controller = _controller(config) if config.adaptive else None
        runner = SimRunner(self.clock, config.machine, config.noise)
        self.engine = Engine(
            self.scheduler,
            runner,
            in_flight=config.in_flight,
            meter=self.meter,
            controller=self.controller,
            clock=self.clock,
        )
        self._params: dict[int, SamplingParams] = {}
        self._fairness = Fairness()
        self._costs: dict[str, tuple[str, int]] = {}  # request: its tenant, and its tokens
        self._requests = self._refused = 0
        self._last_arrival = 0.0

    def run(self, trace: Iterable[TraceRequest]) -> Outcome:
        """Replay the trace, requests by time, until the last one has ended."""
        coming = iter(trace)
        request = next(coming, None)
        while request is not None or self.engine.has_work:
            while request is not None and request.at_s <= self.clock.now:
                self._arrive(request)
                request = next(coming, None)
            if self.engine.has_work:
                self.engine.step()
                self._account()
            elif request is not None:
                self.clock.wait_until(request.at_s)
        return self.outcome()

    def _arrive(self, traced: TraceRequest) -> None:
        name, tokens = f"t{self._requests}", traced.tokens()
        self._requests += 1
        self._last_arrival = traced.at_s
        request = EngineRequest(
            request_id=name,
            prompt=tokens,
            sampling=self._sampling(traced.output_tokens),
            stop_token_ids=UNKNOWN_END,
            salt=traced.tenant,
            tenant=traced.tenant,
        )
        try:
            self.engine.add(request)
        except RequestError:
            self._refused += 1
            return
        self._costs[name] = (traced.tenant, len(tokens) + traced.output_tokens)
        self._fairness.asked(self.clock.now, *self._costs[name])

    def _sampling(self, output_tokens: int) -> SamplingParams:
        found = self._params.get(output_tokens)
        if found is None:
            found = self._params[output_tokens] = SamplingParams(max_tokens=output_tokens, temperature=0.0, seed=1)
        return found

    def _account(self) -> None:
        finished = self.meter.finished
        while finished:
            self._fairness.served(self.clock.now, *self._costs.pop(finished.popleft().request_id))

    def outcome(self) -> Outcome:
        """Of what ran so far."""
        shot = self.meter.snapshot(self.clock.now)
        ttft, itl = shot.histograms[catalogue.TTFT.name], shot.histograms[catalogue.ITL.name]
        stats = self.engine.stats
        return Outcome(
            requests=self._requests,
            refused=self._refused,
            goodput=self.meter.in_time / max(self._last_arrival, 1e-9),
            in_time=self.meter.in_time / max(self._requests, 1),
            ttft_p50_s=ttft.quantile(0.5),
            ttft_p99_s=ttft.quantile(0.99),
            itl_p50_s=itl.quantile(0.5),
            itl_p99_s=itl.quantile(0.99),
            fairness=self._fairness.index(),
            hit_rate=shot.value(catalogue.HIT_RATE),
            tokens_per_s=stats.generated_tokens / max(self.clock.now, 1e-9),
            utilisation=stats.utilisation,
            steps=stats.steps,
            preemptions=stats.preemptions,
            recomputed_tokens=self.meter.recomputed,
            decisions=int(shot.total(catalogue.DECISIONS)),
            seconds=self.clock.now,
        )


class Unordered(Scheduler):
    """A scheduler that hears of no promise, whatever limits it is given."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, Limits):
            value = replace(value, promise=None)
        super().__setattr__(name, value)


def _controller(config: SimConfig) -> Controller:
    goals = goals_of(config.adaptive, ttft_s=config.bounds.ttft_s, itl_s=config.bounds.itl_s)
    start = start_of(config.adaptive)
    if config.fixed_limits:
        places = config.n_parallel
        goals = replace(goals, fixed_batch=True, least_parallel=places, most_parallel=places)
        start = Setting(config.n_batch, None, places)
    return Controller(Schedule(goals), start, fit=StepTimeFit(config.prior))
