"""Milliseconds that planning and committing a step takes, without a model: `python benchmarks/scheduler.py`.

CPU time of the one thread, the median over the steps, of the quickest of `--rounds`: a host that is shared changes its
speed by a factor of two within seconds. Garbage is collected between the steps, as by the engine, and is not part of
it. Decoding: every sequence has a prompt of 500 tokens behind it. Prompts: as many requests arrive as are served, each
with a prompt of 200 tokens that shares its first 100, so that prompts, admissions, ends and evictions are part of the
steps. Answers of 20 tokens end so soon that a budget of 256 prompt tokens a step keeps 90 of 256 places in use, with
four admissions and four ends a step; with 150 all are in use. `--profile` says where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import product
from statistics import median

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.garbage import uncollected
from plait.scheduler.limits import Limits
from plait.scheduler.plan import RowResult, StepPlan, StepResult
from plait.scheduler.scheduler import Scheduler
from plait.types import EngineRequest, SamplingParams

PAGE_SIZE = 16
STEPS = 120
SIZES = (1, 32, 256)
BOUNDS_MS = {32: 0.2, 256: 1.0}
WARM_UP = 20


class Bench:
    """A scheduler whose steps take no time. `times` are the seconds of schedule and commit of each step."""

    def __init__(self, sequences: int, n_batch: int, context: int, in_flight: int) -> None:
        pages = sequences * (context // PAGE_SIZE + 2) + 64
        limits = Limits(n_batch=n_batch, n_parallel=sequences, context_length=context)
        self.scheduler = Scheduler(KVCache(CacheConfig(PAGE_SIZE, (pages,))), limits)
        self.times: list[float] = []
        self.ended = self.tokens = 0
        self._in_flight = in_flight
        self._flying: deque[StepPlan] = deque()
        self._rng = random.Random(1)

    def step(self) -> None:
        with uncollected():
            start = time.thread_time()
            plan = self.scheduler.schedule()
            spent = time.thread_time() - start
        if plan is not None:
            self._flying.append(plan)
            self.tokens += plan.num_tokens
        if self._flying and (plan is None or len(self._flying) > self._in_flight):
            done = self._flying.popleft()
            rows = tuple(RowResult((self._rng.randrange(8000),)) for p in done.sequences for _ in p.outputs)
            result = StepResult(done.step, rows, 0.001)
            with uncollected():
                start = time.thread_time()
                events = self.scheduler.commit(done, result)
                spent += time.thread_time() - start
            self.ended += sum(event.final for event in events)
        self.times.append(spent)


def request(number: int, prompt: tuple[int, ...], max_tokens: int) -> EngineRequest:
    sampling = SamplingParams(seed=number, max_tokens=max_tokens)
    return EngineRequest(request_id=f"r{number}", prompt=prompt, sampling=sampling, stop_token_ids=frozenset({8001}))


def decoding(sequences: int, in_flight: int) -> list[float]:
    """Steps in which every sequence decodes."""
    bench = Bench(sequences, max(2048, sequences), 1024, in_flight)
    for number in range(sequences):
        bench.scheduler.add(request(number, (number, *range(1, 500)), STEPS + 400))
    while bench.scheduler.num_running < sequences or bench.tokens < 500 * sequences:
        bench.step()
    bench.times.clear()
    for _ in range(STEPS + WARM_UP):
        bench.step()
    return bench.times[WARM_UP:]


def with_prompts(sequences: int, in_flight: int, waiting: int, answer: int) -> list[float]:
    """Steady traffic at the limit, with `waiting` requests in the queue, and answers of so many tokens."""
    bench = Bench(sequences, 256 + sequences, 512, in_flight)
    shared = tuple(range(100))
    number = 0
    for _ in range(2 * STEPS + answer):
        while number - bench.ended < sequences + waiting:
            own = tuple(bench._rng.randrange(8000) for _ in range(100))
            bench.scheduler.add(request(number, shared + own, answer))
            number += 1
        bench.step()
    return bench.times[-STEPS:]


def report(name: str, rounds: int, run: Callable[[], list[float]], bound: float | None = None) -> None:
    ms = sorted(1000 * t for t in min((run() for _ in range(rounds)), key=median))
    said = "" if bound is None else f"   (bound {bound})"
    print(
        f"{name:<56} median {median(ms):7.3f}   90% {ms[len(ms) * 9 // 10]:7.3f}   max {ms[-1]:7.3f}{said}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true", help="where the time of 256 decoding sequences goes")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.profile:
        profile = cProfile.Profile()
        profile.runcall(decoding, 256, 1)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    for in_flight, sequences in product((0, 1), SIZES):
        name = f"decode, {sequences} sequences, {in_flight} in flight"
        report(name, given.rounds, partial(decoding, sequences, in_flight), BOUNDS_MS.get(sequences))
    for answer, waiting, sequences in product((20, 150), (0, 100, 4000), SIZES[1:]):
        name = f"with prompts, {sequences} sequences, {waiting} waiting, answers {answer}"
        report(name, given.rounds, partial(with_prompts, sequences, 1, waiting, answer), BOUNDS_MS[sequences])


if __name__ == "__main__":
    main()
