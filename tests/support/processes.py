"""Engine processes for tests: requests of all kinds, a supervisor for the length of a block, what came of it all."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from plait.config import EngineOptions, SupervisorOptions
from plait.supervisor.client import EngineState
from plait.supervisor.supervisor import Supervisor
from plait.types import EngineRequest, FinishReason, SamplingParams, TokenEvent

VOCAB = 8192
EOG = frozenset({1, 2})


@dataclass
class Sample:
    tokens: list[int] = field(default_factory=list)
    final: TokenEvent | None = None

    @property
    def outcome(self) -> tuple[tuple[int, ...], FinishReason | None, type[Exception] | None]:
        assert self.final is not None
        return tuple(self.tokens), self.final.finish_reason, type(self.final.error) if self.final.error else None


def request(name: str, prompt: Sequence[int] = (5, 6, 7), **sampling: Any) -> EngineRequest:
    params = {"seed": 1, "max_tokens": 20} | sampling
    return EngineRequest(request_id=name, prompt=tuple(prompt), sampling=SamplingParams(**params))


def mixed(count: int, seed: int = 0, most_tokens: int = 60) -> list[EngineRequest]:
    """Greedy, sampled, with penalties, with several samples, with stop ids; some share a beginning."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        stem = [17 + j for j in range(40)] if i % 4 == 0 else []
        prompt = stem + [rng.randrange(3, VOCAB) for _ in range(rng.randrange(1, 60))]
        kind = ({"temperature": 0.0}, {}, {"repeat_penalty": 1.3, "repeat_last_n": 24}, {"dry_multiplier": 0.8})[i % 4]
        params = SamplingParams(
            seed=rng.randrange(2**63), n=3 if i % 5 == 0 else 1, max_tokens=rng.randrange(1, most_tokens), **kind
        )
        stop_ids = EOG | {rng.randrange(3, 200)} if i % 3 == 0 else EOG
        one = EngineRequest(request_id=f"m{i}", prompt=tuple(prompt), sampling=params, stop_token_ids=stop_ids)
        found.append(one)
    return found


@asynccontextmanager
async def supervised(
    options: SupervisorOptions | None = None, *, model: str | None = None, **engine: Any
) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(model, EngineOptions(**{"threads": 1} | engine), options)
    await supervisor.start()
    try:
        await supervisor.ready()
        yield supervisor
    finally:
        await supervisor.stop(0)


async def collect(supervisor: Supervisor, one: EngineRequest) -> list[Sample]:
    """All that comes of a request; exactly one final event of each sample, and nothing after it."""
    samples = [Sample() for _ in range(one.sampling.n)]
    async for event in supervisor.submit(one):
        sample = samples[event.index]
        assert sample.final is None, "an event after the final one"
        sample.tokens += event.tokens
        if event.final:
            sample.final = event
    assert all(sample.final is not None for sample in samples), "a stream without an end"
    return samples


async def outcomes(supervisor: Supervisor, requests: Sequence[EngineRequest]) -> list[list[Any]]:
    """What comes of requests that run all at once."""
    found = await asyncio.gather(*(collect(supervisor, one) for one in requests))
    return [[sample.outcome for sample in samples] for samples in found]


def pid_of(supervisor: Supervisor) -> int:
    assert supervisor.pid is not None
    return supervisor.pid


async def serving(supervisor: Supervisor) -> int:
    """Wait until an engine is ready; its process id."""
    while supervisor.health().state is not EngineState.READY:
        await asyncio.sleep(0.01)
    return pid_of(supervisor)


async def kill_often(supervisor: Supervisor, times: int, seed: int, pause_s: float = 0.4) -> None:
    """SIGKILL at random moments, now and then while it loads."""
    rng = random.Random(seed)
    for _ in range(times):
        if rng.random() < 0.8:
            await serving(supervisor)
        await asyncio.sleep(rng.random() * pause_s)
        while supervisor.pid is None:
            await asyncio.sleep(0.005)
        os.kill(supervisor.pid, signal.SIGKILL)
        while supervisor.pid is not None:
            await asyncio.sleep(0)


def hang(work: object) -> None:
    """What a worker does that never ends its work."""
    time.sleep(600)
