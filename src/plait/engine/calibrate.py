"""Learns how long steps take before the first request: a little made-up work through scheduler and runner.

The work has bookkeeping of its own and writes to KV memory that nobody has used yet, so it must come first. Knows the
parts of an engine; knows no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.control.fit import StepTimeFit
from plait.engine.core import Engine
from plait.engine.runner import Runner
from plait.metrics.records import StepRecord
from plait.ops.api import Executable
from plait.scheduler.limits import Limits
from plait.scheduler.scheduler import Scheduler
from plait.types import EngineRequest, SamplingParams

ROUNDS: tuple[tuple[int, int, int], ...] = (
    (1, 8, 4), (4, 12, 4), (1, 64, 3), (8, 16, 4), (1, 160, 4), (2, 100, 6), (16, 8, 6), (3, 200, 4),
)  # fmt: skip
"""(sequences, prompt tokens, answer tokens): cheap ones first, so that a slow machine gets something out of them."""
CHUNK = 128
WARM_UP_STEPS = 2


def calibrate(
    executable: Executable,
    config: CacheConfig,
    context_length: int,
    fit: StepTimeFit,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run steps of several shapes for about `seconds`, and show them to `fit`. A round that is expected to take longer
    than what is left is not begun."""
    limits = Limits(n_batch=CHUNK, n_parallel=16, context_length=context_length)
    runner = Runner(executable, len(config.num_pages))
    engine = Engine(Scheduler(KVCache(config), limits, reuse=False), runner)
    end, seen, number = clock() + seconds, 0, 0
    try:
        while clock() < end:
            shape = ROUNDS[number % len(ROUNDS)]
            if _expected(fit, shape) <= end - clock():
                _add(engine, number, shape, context_length)
            elif number >= len(ROUNDS):
                break
            number += 1
            while engine.has_work and clock() < end:
                engine.step()
                for record in list(engine.records)[max(seen, WARM_UP_STEPS) :]:
                    _show(fit, record)
                seen = len(engine.records)
    finally:
        engine.close()
    fit.trust()


def _expected(fit: StepTimeFit, shape: tuple[int, int, int]) -> float:
    """Seconds of a round; 0 as long as nothing is known."""
    sequences, prompt, answer = shape
    if fit.model is None:
        return 0.0
    chunks = -(-sequences * prompt // CHUNK)
    once = fit.model.seconds(sequences, 0, sequences * prompt)
    return answer * once + chunks * fit.model.seconds(0, sequences * prompt / chunks, prompt * prompt / 2)


def _add(engine: Engine, number: int, shape: tuple[int, int, int], context_length: int) -> None:
    sequences, prompt, answer = shape
    prompt = max(1, min(prompt, context_length - answer))
    sampling = SamplingParams(max_tokens=answer, temperature=0.0, seed=1)
    for index in range(sequences):
        # The lowest ids of a vocabulary are its special and byte tokens: they are always there.
        tokens = tuple((index + place) % 3 for place in range(prompt))
        if prompt + answer <= context_length:
            engine.add(EngineRequest(request_id=f"{number}.{index}", prompt=tokens, sampling=sampling))


def _show(fit: StepTimeFit, record: StepRecord) -> None:
    fit.observe(record.decode_tokens, record.prompt_tokens, record.key_reads, record.seconds)
