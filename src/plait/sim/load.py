"""Makes load traces: several tenants, conversations, shared prefixes; from quiet to peak, evenly or in bursts.

Deterministic: the same seed gives the same trace. Knows nothing of the scheduler whose trial it is.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from plait.control.steptime import StepTime
from plait.sim.trace import ANSWER, Part, TraceRequest

LONGEST_TURNS = 12
COST_SAMPLES = 400


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens, drawn log-normally: the median and the sigma of the logarithm, within 1 to `most`."""

    median: float
    sigma: float
    most: int

    def draw(self, rng: Random) -> int:
        return max(1, min(self.most, round(self.median * math.exp(rng.gauss(0.0, self.sigma)))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One source of requests. `weight` is its part of the load's cost. All its prompts begin with the same
    `system_tokens`; a conversation has `turns` on average, each `think_s` after the one before it, and each prompt
    holds what came before. `burst` is the coefficient of variation of the gaps between arrivals: 1 is Poisson, more is
    burstier."""

    name: str
    weight: float
    system_tokens: int
    user: Lengths
    answer: Lengths
    turns: float = 1.0
    think_s: float = 10.0
    burst: float = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """`phases` are (seconds, share of the machine that the load asks for), in order."""

    seed: int
    tenants: tuple[Tenant, ...]
    phases: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        return sum(seconds for seconds, _ in self.phases)


CHAT = Tenant(
    name="chat", weight=1.0, system_tokens=300, user=Lengths(60, 0.8, 600), answer=Lengths(120, 0.6, 500), turns=4.0,
    think_s=8.0,
)  # fmt: skip
DOCUMENTS = Tenant(
    name="documents",
    weight=1.0,
    system_tokens=100,
    user=Lengths(1400, 0.5, 4000),
    answer=Lengths(60, 0.5, 250),
    turns=1.3,
)
CODE = Tenant(
    name="code", weight=1.0, system_tokens=600, user=Lengths(350, 0.9, 2500), answer=Lengths(40, 0.8, 300), turns=3.0,
    think_s=4.0,
)  # fmt: skip
ESSAYS = Tenant(
    name="essays", weight=1.0, system_tokens=50, user=Lengths(40, 0.5, 200), answer=Lengths(400, 0.4, 900), turns=1.2
)
SHORT = Tenant(name="short", weight=1.0, system_tokens=200, user=Lengths(80, 0.6, 400), answer=Lengths(12, 0.7, 60))

KINDS: dict[str, tuple[Tenant, ...]] = {
    "chat": (CHAT, ESSAYS, SHORT),
    "documents": (DOCUMENTS, CODE, SHORT),
    "mixed": (CHAT, DOCUMENTS, CODE, ESSAYS, SHORT),
}
"""What a trace is made of; the seed shifts the weights."""
SHARES = (0.1, 0.3, 0.6, 0.85, 1.15, 0.7, 0.2)


def quiet_to_peak(kind: str, seed: int, *, phase_s: float = 15.0, bursty: bool = False) -> Load:
    """A load of one of the `KINDS`, through phases from a tenth of the machine to a little more than all of it. The
    seed draws weights, the height and order of the phases, and (if `bursty`) how bursty each tenant is."""
    rng = Random(f"{kind} {seed} {bursty}")
    tenants = tuple(
        replace(tenant, weight=rng.uniform(0.3, 1.0), burst=rng.uniform(2.0, 5.0) if bursty else 1.0)
        for tenant in KINDS[kind]
    )
    shares = [share * rng.uniform(0.85, 1.15) for share in SHARES]
    turn = rng.randrange(len(shares))
    shares = shares[turn:] + shares[:turn]
    return Load(seed, tenants, tuple((phase_s * rng.uniform(0.7, 1.3), share) for share in shares))


def make_trace(load: Load, machine: StepTime, batch: int = 32) -> Iterator[TraceRequest]:
    """The requests, by time. The rates are such that in a phase of share 1 the work takes all of the time of `machine`,
    with `batch` sequences decoding together and every shared prefix computed once."""
    numbers = itertools.count(1)
    streams = []
    total = sum(tenant.weight for tenant in load.tenants)
    for tenant in load.tenants:
        rng = Random(f"{load.seed} {tenant.name}")
        system = next(numbers)
        cost = _conversation_cost(tenant, machine, batch)
        starts = _arrivals(load.phases, tenant.weight / total / cost, tenant.burst, rng)
        streams.append(_tenant_trace(tenant, system, starts, numbers, rng))
    return heapq.merge(*streams, key=lambda request: request.at_s)


def _conversation_cost(tenant: Tenant, machine: StepTime, batch: int) -> float:
    """Mean seconds of a machine that a conversation of this tenant takes."""
    rng, spent = Random(tenant.name), 0.0
    row = machine.decode_row + machine.step / batch
    for _ in range(COST_SAMPLES):
        length = tenant.system_tokens
        for user, answer in _turns(tenant, rng):
            keys = user * (length + user / 2) + answer * (length + user + answer / 2)
            spent += machine.prompt_token * user + row * answer + machine.key_read * keys
            length += user + answer
    return spent / COST_SAMPLES


def _turns(tenant: Tenant, rng: Random) -> Iterator[tuple[int, int]]:
    """(new prompt tokens, answer tokens) of each turn: their number is geometric, with the mean `turns`."""
    for _ in range(LONGEST_TURNS):
        yield tenant.user.draw(rng), tenant.answer.draw(rng)
        if rng.random() < 1 / tenant.turns:
            return


def _arrivals(phases: tuple[tuple[float, float], ...], rate: float, burst: float, rng: Random) -> Iterator[float]:
    """Times at which conversations start: `rate` times the phase's share a second. Gaps are gamma-distributed in the
    time scale in which the rate is 1."""
    shape = 1 / burst**2
    due, start = rng.gammavariate(shape, 1 / shape) * rng.random(), 0.0
    for seconds, share in phases:
        passed, here = 0.0, seconds * share * rate
        while passed + due < here:
            passed += due
            yield start + passed / (share * rate)
            due = rng.gammavariate(shape, 1 / shape)
        due -= here - passed
        start += seconds


def _tenant_trace(
    tenant: Tenant, system: int, starts: Iterator[float], numbers: Iterator[int], rng: Random
) -> Iterator[TraceRequest]:
    """The tenant's requests by time: conversations overlap, so turns to come wait in a heap."""
    coming: list[tuple[float, int, TraceRequest]] = []
    for start in starts:
        while coming and coming[0][0] <= start:
            yield heapq.heappop(coming)[2]
        at_s = start
        prompt: tuple[Part, ...] = ((system, tenant.system_tokens),)
        for user, answer in _turns(tenant, rng):
            number = next(numbers)
            prompt = (*prompt, (number, user))
            heapq.heappush(coming, (at_s, number, TraceRequest(at_s, tenant.name, _merged(prompt), answer)))
            prompt = (*prompt, (ANSWER, answer))
            at_s += 1.0 + rng.expovariate(1 / tenant.think_s)
    while coming:
        yield heapq.heappop(coming)[2]


def _merged(prompt: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(part for part in prompt if part[1])
