"""Engines over tiny models, and what they yield: for tests of whole requests."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.engine.core import Engine
from plait.engine.grammar import Grammars
from plait.engine.runner import Runner
from plait.formats.tensor import F32Array
from plait.models.registry import LoadedModel
from plait.ops.api import Executable, I32Array, KVConfig, StepInputs
from plait.ops.sampling import Sampled, SampleRow
from plait.scheduler.limits import Limits
from plait.scheduler.scheduler import Scheduler
from plait.types import EngineRequest, SamplingParams, TokenEvent
from support.backends import make_backend

CONTEXT = 48
STREAMS = dict[tuple[str, int], tuple[tuple[int, ...], object]]


class Letters:
    """What a grammar asks of a tokenizer, for a vocabulary of 40: an end token, then one character each."""

    END = 0
    TEXT = "-abcdefghijklmnopqrstuvwxyz0123456789 .,"
    source, vocab_size, bos_id, eog_ids = "letters", 40, None, frozenset({END})

    def is_special(self, token: int) -> bool:
        return token == self.END

    def token_text(self, token: int) -> str:
        return "<end>" if token == self.END else self.TEXT[token]

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == self.END else self.TEXT[token].encode()

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        return [self.TEXT.index(letter) for letter in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.TEXT[token] for token in tokens if token != self.END)


class Faulty:
    """An executable that raises when a token is in the batch, or gives rows without a finite number to the sequences
    that the batch ends with another token."""

    def __init__(self, inner: Executable, raises_on: int = -1, nan_on: int = -1) -> None:
        self.inner, self.raises_on, self.nan_on = inner, raises_on, nan_on
        self.runs = 0

    def run(self, step: StepInputs) -> F32Array:
        self.runs += 1
        logits = self.inner.run(step)
        if self.raises_on in step.tokens:
            raise FloatingPointError("a device that cannot bear this token")
        logits[step.tokens[step.out_rows[: len(logits)]] == self.nan_on] = np.nan
        return logits

    def hidden(self) -> F32Array:
        return self.inner.hidden()

    def sample(self, logits: F32Array, picks: Sequence[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        return self.inner.sample(logits, picks, rows)

    def read_slots(self, group: int, slots: I32Array) -> bytes:
        return self.inner.read_slots(group, slots)

    def write_slots(self, group: int, slots: I32Array, data: bytes) -> None:
        self.inner.write_slots(group, slots, data)

    def kv_bytes(self) -> int:
        return self.inner.kv_bytes()


def engine_of(
    model: LoadedModel,
    *,
    n_batch: int = 64,
    n_parallel: int = 8,
    pages: int = 400,
    in_flight: int = 0,
    reuse: bool = True,
    backend: str = "reference",
    n_draft: int = 0,
    words: Letters | None = None,
    wrap: Callable[[Executable], Executable] = lambda executable: executable,
) -> Engine:
    groups = model.kv.groups
    kv = KVConfig(4, (pages,) * len(groups), "f32")
    cache = KVCache(CacheConfig(4, kv.num_pages, tuple(group.window for group in groups)))
    limits = Limits(n_batch=n_batch, n_parallel=n_parallel, context_length=CONTEXT, n_draft=n_draft)
    executable = wrap(make_backend(backend).compile(model.program, kv))
    grammars = None if words is None else Grammars(lambda: words, model.vocab_size)  # type: ignore[arg-type,return-value]
    scheduler = Scheduler(cache, limits, reuse=reuse, ready=grammars.ready if grammars else None)
    return Engine(scheduler, Runner(executable, len(groups), grammars), in_flight=in_flight, grammars=grammars)


def collect(events: list[TokenEvent]) -> STREAMS:
    """Tokens and the end of each sample; exactly one end."""
    tokens: dict[tuple[str, int], list[int]] = {}
    ends: dict[tuple[str, int], object] = {}
    for event in events:
        key = (event.request_id, event.index)
        assert key not in ends
        tokens.setdefault(key, []).extend(event.tokens)
        if event.final:
            ends[key] = event.finish_reason or type(event.error)
    assert set(ends) == set(tokens)
    return {key: (tuple(tokens[key]), ends[key]) for key in tokens}


def serve(engine: Engine, requests: list[EngineRequest], arrivals: random.Random | None = None) -> STREAMS:
    """All requests at once, or as `arrivals` spreads them over the steps."""
    events: list[TokenEvent] = []
    waiting = list(requests)
    while waiting or engine.has_work:
        while waiting and (arrivals is None or arrivals.random() < 0.4 or not engine.has_work):
            engine.add(waiting.pop(0))
        events += engine.step()
        engine.check()
    assert engine.close() == []
    return collect(events)


def some_requests(seed: int, count: int, vocab: int = 40) -> list[EngineRequest]:
    """Mixed greedy and drawn, with penalties, several samples and shared prefixes."""
    rng = random.Random(seed)
    stem = tuple(rng.randrange(10, vocab) for _ in range(13))
    kinds = (
        SamplingParams(temperature=0),
        SamplingParams(temperature=1.5, top_k=0, min_p=0),
        SamplingParams(temperature=0, repeat_penalty=1.5, repeat_last_n=5),
        SamplingParams(temperature=1.2, dry_multiplier=0.8, dry_allowed_length=1, n=3),
    )
    return [
        EngineRequest(
            request_id=f"r{i}",
            prompt=(
                stem[: rng.choice((0, 9, 13))] + tuple(rng.randrange(10, vocab) for _ in range(rng.randint(1, 12)))
            ),
            sampling=replace(rng.choice(kinds), max_tokens=rng.choice((1, 5, 12, None)), seed=rng.randrange(99)),
            stop_token_ids=frozenset({rng.randrange(10, vocab)}),
        )
        for i in range(count)
    ]


def each_alone(
    model: LoadedModel, requests: list[EngineRequest], backend: str = "reference", words: Letters | None = None
) -> STREAMS:
    streams: STREAMS = {}
    for request in requests:
        streams |= serve(engine_of(model, n_parallel=1, backend=backend, words=words), [request])
    return streams


def greedy(request_id: str, prompt: tuple[int, ...], max_tokens: int | None = None) -> EngineRequest:
    params = SamplingParams(temperature=0, max_tokens=max_tokens, seed=0)
    return EngineRequest(request_id=request_id, prompt=prompt, sampling=params)
