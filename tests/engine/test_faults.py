"""A fault at any stage stays with the request that causes it: the others have the tokens of an undisturbed run, and
every request ends exactly once. A fault that is nobody's ends all, once each, and the engine goes on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plait.cache.kv import KVCache
from plait.engine.core import Engine
from plait.engine.fingerprint import fingerprint
from plait.engine.kvdisk import KVDisk
from plait.engine.kvstore import KVStore
from plait.engine.packing import Packer
from plait.engine.runner import Runner
from plait.errors import StepError
from plait.formats.tensor import F32Array
from plait.models.registry import LoadedModel, load_model
from plait.ops.api import Executable, I32Array, StepInputs
from plait.ops.sampling import Sampled, SampleRow
from plait.scheduler.admission import Admission
from plait.scheduler.draft import Draft
from plait.scheduler.plan import PlannedSequence
from plait.scheduler.planner import Planner
from plait.scheduler.request import Sample
from plait.scheduler.scheduler import Scheduler
from plait.types import EngineRequest, FinishReason, SamplingParams
from support.serving import STREAMS, each_alone, engine_of, serve, some_requests
from support.tiny_llama import VARIANTS

CULPRIT = "r3"
TOKEN = 39
SEED = 777_003
"""The culprit's, by which a sampler knows it."""


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(VARIANTS["gqa"].source("safetensors"))


def requests_of(seed: int, n: int = 2) -> list[EngineRequest]:
    """Eight, of which the culprit has a seed and a last token of its own, and some tokens to draw; nobody else's prompt
    has that token, and nobody else may draw it."""
    found = []
    for one in some_requests(seed, 8, vocab=38):
        params = replace(one.sampling, logit_bias=((TOKEN, -1e9),))
        if one.request_id == CULPRIT:
            params = SamplingParams(seed=SEED, max_tokens=6, n=n, logit_bias=params.logit_bias)
            one = replace(one, prompt=(*one.prompt, TOKEN), stop_token_ids=frozenset())
        found.append(replace(one, sampling=params))
    return found


@dataclass
class Faults:
    """An executable that breaks in one way, `how`, where the culprit takes part."""

    inner: Executable
    how: str
    count: int = 0

    def run(self, step: StepInputs) -> F32Array:
        culprit = TOKEN in step.tokens
        if culprit and self.how == "before the step":
            self._broken()
        logits = self.inner.run(step)
        if culprit and self.how == "after the step":
            self._broken()
        bad = {"NaN": np.nan, "Inf": np.inf}.get(self.how)
        if bad is not None and culprit:
            self.count += 1
            logits[step.tokens[step.out_rows] == TOKEN, 5] = bad
        return logits

    def sample(self, logits: F32Array, picks: Sequence[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        mine = [row.params.seed == SEED for row in rows]
        if any(mine) and self.how == "the sampler raises":
            self._broken()
        drawn = self.inner.sample(logits, picks, rows)
        if self.how == "a row cannot be drawn":
            self.count += sum(mine)
            drawn = [
                Sampled(-1, (), StepError("no draw")) if bad else one for bad, one in zip(mine, drawn, strict=True)
            ]
        return drawn

    def _broken(self) -> None:
        self.count += 1
        raise FloatingPointError("broken")

    def read_slots(self, group: int, slots: I32Array) -> bytes:
        return self.inner.read_slots(group, slots)

    def write_slots(self, group: int, slots: I32Array, data: bytes) -> None:
        self.inner.write_slots(group, slots, data)

    def kv_bytes(self) -> int:
        return self.inner.kv_bytes()


DEVICE = ["before the step", "after the step", "NaN", "Inf", "the sampler raises", "a row cannot be drawn"]


def only_the_culprit_failed(streams: STREAMS, model: LoadedModel, requests: list[EngineRequest]) -> None:
    wanted = each_alone(model, requests)
    assert set(streams) == set(wanted)
    others = {key: stream for key, stream in wanted.items() if key[0] != CULPRIT}
    assert {key: stream for key, stream in streams.items() if key[0] != CULPRIT} == others
    ends = {end for key, (_, end) in streams.items() if key[0] == CULPRIT}
    assert all(isinstance(end, type) and issubclass(end, Exception) for end in ends), ends


@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize("pages", [24, 400], ids=["few pages", "room"])
@pytest.mark.parametrize("how", DEVICE)
def test_a_fault_of_the_device_or_the_sampler(model: LoadedModel, how: str, pages: int, in_flight: int) -> None:
    requests, faults = requests_of(41), list[Faults]()

    def wrap(inner: Executable) -> Executable:
        faults.append(Faults(inner, how))
        return faults[0]

    engine = engine_of(model, n_batch=24, n_parallel=6, pages=pages, in_flight=in_flight, wrap=wrap)
    only_the_culprit_failed(serve(engine, requests, random.Random(1)), model, requests)
    assert faults[0].count > 0


# --- in our own code ----------------------------------------------------------------------------------------------


@dataclass
class Broken:
    """Replaces a function by one that raises before, or after, it works for the culprit."""

    inner: Callable[..., Any]
    is_culprits: Callable[..., bool]
    after: bool
    count: int = 0

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            mine = self.is_culprits(*args)
            if mine and not self.after:
                self._raise()
            result = self.inner(instance, *args, **kwargs)
            if mine:
                self._raise()
            return result

        return call

    def _raise(self) -> None:
        self.count += 1
        raise ZeroDivisionError("a bug")


def packs_the_culprit(sequences: Sequence[PlannedSequence], *_: object) -> bool:
    return any(TOKEN in planned.tokens for planned in sequences)


def is_the_culprits(sample: Sample, *_: object) -> bool:
    return sample.request.request_id == CULPRIT


STAGES: list[tuple[type, str, Callable[..., bool]]] = [
    (Packer, "pack", packs_the_culprit),
    (Scheduler, "_take", is_the_culprits),
    (Scheduler, "_accept", is_the_culprits),
]


@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name", "mine"), STAGES, ids=[name for _, name, _ in STAGES])
def test_an_exception_while_one_request_is_packed_or_committed(
    model: LoadedModel,
    owner: type,
    name: str,
    mine: Callable[..., bool],
    after: bool,
    in_flight: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = requests_of(43, n=2)
    wanted = each_alone(model, requests)
    broken = Broken(getattr(owner, name), mine, after)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, broken)
        engine = engine_of(model, n_batch=24, n_parallel=6, in_flight=in_flight)
        streams = serve(engine, requests, random.Random(1))
    assert broken.count > 0
    assert {key: s for key, s in streams.items() if key[0] != CULPRIT} == {
        key: s for key, s in wanted.items() if key[0] != CULPRIT
    }
    assert set(streams) == set(wanted)
    assert any(end is StepError for key, (_, end) in streams.items() if key[0] == CULPRIT)


@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_exception_on_the_short_way_of_one_request_that_decodes(
    model: LoadedModel, after: bool, in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = requests_of(43, n=1)
    wanted = each_alone(model, requests)
    engines: list[Engine] = []
    broken = Broken(KVCache.commit_one, lambda seq, _: engines[0]._scheduler.owner(seq)[0] == CULPRIT, after)
    with monkeypatch.context() as patch:
        patch.setattr(KVCache, "commit_one", broken)
        engines.append(engine_of(model, n_batch=24, n_parallel=6, in_flight=in_flight))
        streams = serve(engines[0], requests, random.Random(1))
    assert broken.count > 0
    assert {key: s for key, s in streams.items() if key[0] != CULPRIT} == {
        key: s for key, s in wanted.items() if key[0] != CULPRIT
    }
    assert set(streams) == set(wanted)
    assert any(end is StepError for key, (_, end) in streams.items() if key[0] == CULPRIT)


@dataclass
class Once:
    """Raises at the third call, and works otherwise."""

    inner: Callable[..., Any]
    calls: int = field(default=0)

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == 3:
                raise ZeroDivisionError("a bug")
            return self.inner(instance, *args, **kwargs)

        return call


NOBODYS = [
    (Draft, "finish"),
    (Admission, "admit"),
    (Planner, "prefill"),
    (Runner, "remember"),
    (Scheduler, "commit"),
]


@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize(("owner", "name"), NOBODYS, ids=[name for _, name in NOBODYS])
def test_an_exception_that_is_nobodys_ends_all_once_and_the_engine_goes_on(
    model: LoadedModel, owner: type, name: str, in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, engine = requests_of(44), engine_of(model, n_batch=24, n_parallel=6, in_flight=in_flight)
    for one in requests:
        engine.add(one)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, Once(getattr(owner, name)))
        events = list(engine.run())
    ends = [(event.request_id, event.index) for event in events if event.final]
    assert sorted(ends) == sorted((one.request_id, i) for one in requests for i in range(one.sampling.n))
    assert any(isinstance(event.error, StepError) for event in events)
    engine.check()
    assert serve(engine, requests, random.Random(1)) == each_alone(model, requests)


# --- the disk -----------------------------------------------------------------------------------------------------


@contextmanager
def kept_on_disk(model: LoadedModel, folder: Path, in_flight: int) -> Iterator[Engine]:
    """An engine with a folder of blocks of four tokens."""
    engine = engine_of(model, n_batch=24, n_parallel=6, pages=40, in_flight=in_flight)
    runner, cache = engine._runner, engine._scheduler._sequences._cache
    assert isinstance(runner, Runner)
    assert isinstance(cache, KVCache)
    each = model.kv.layer_bytes("f32") * len(model.kv.groups[0].layers) + 4
    store = KVStore(folder, fingerprint(model, "f32", "reference", ""), 4, 2**30)
    disk = KVDisk(cache, runner, store, (each,))
    engine._disk, engine._scheduler._admission._ready = disk, disk.ready
    yield engine
    engine.close()


@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (KVStore, "stored"),
        (KVStore, "read"),
        (KVStore, "write"),
        (KVDisk, "_insert"),
        (KVDisk, "_copy_block"),
        (KVCache, "cached_pages"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_disk_that_breaks_costs_time_only(
    model: LoadedModel, owner: type, name: str, in_flight: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = requests_of(45)
    wanted = each_alone(model, requests)
    with kept_on_disk(model, tmp_path, in_flight) as engine:
        assert serve_open(engine, requests) == wanted
    assert any(tmp_path.iterdir())
    broken = 0

    def breaks(*_: object) -> None:
        nonlocal broken
        broken += 1
        raise OSError("the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, breaks)
        with kept_on_disk(model, tmp_path if name in ("read", "_insert") else tmp_path / "new", in_flight) as engine:
            assert serve_open(engine, requests) == wanted
            engine.check()
    assert broken > 0


def serve_open(engine: Engine, requests: list[EngineRequest]) -> STREAMS:
    """`serve`, but the engine stays open."""
    streams: dict[tuple[str, int], tuple[tuple[int, ...], object]] = {}
    for one in requests:
        engine.add(one)
    for event in engine.run():
        key = (event.request_id, event.index)
        tokens, end = streams.get(key, ((), None))
        assert end is None, "an event after the final one"
        streams[key] = (tokens + event.tokens, event.finish_reason or (type(event.error) if event.error else None))
    assert all(isinstance(end, FinishReason) for _, end in streams.values())
    return streams
