"""Batching never changes the answer: logits are bit-identical to the sequence run alone.

Whatever else is in the batch, however prompts are chunked, wherever their pages lie, whether a prefix is shared with
another sequence, copied, or saved and restored, for any number of threads, on any SIMD path, and for weights of any
format.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.formats.tensor import F32Array
from plait.models.registry import load_model
from plait.ops.api import Executable, KVConfig
from support.backends import BACKENDS, make_backend, other_paths
from support.steps import Chunk, Driver
from support.tensors import FEW_BITS, MemorySource, in_blocks, in_k_formats, quantised
from support.tiny_llama import TinyLlama

Prompt: TypeAlias = tuple[int, ...]

TINY = TinyLlama(d_model=64, ff=96, head_dim=16, vocab=48, n_layers=2, context=512)
WINDOWED = TinyLlama(d_model=64, ff=96, head_dim=16, vocab=48, n_layers=2, context=512, window=70)
K_SIZED = TinyLlama(d_model=256, ff=512, head_dim=32, n_heads=8, vocab=48, n_layers=1, context=512)
KV = KVConfig(16, (256,), "f16")
MAX_SEQUENCES = 6
MAX_PROMPT = 150  # more than two attention blocks of 64 keys

MODELS: dict[str, MemorySource] = {
    "f32": TINY.source("safetensors"),
    "window": WINDOWED.source("gguf"),
    "F16": quantised(TINY.source("gguf"), "F16"),
    "BF16": quantised(TINY.source("gguf"), "BF16"),
    "Q8_0": quantised(TINY.source("gguf"), "Q8_0"),
    "Q4_0": quantised(TINY.source("gguf"), "Q4_0"),
    "Q4_K_M": in_k_formats(K_SIZED.source("gguf"), np.random.default_rng(5)),
    "IQ, TQ, MXFP4": in_blocks(replace(K_SIZED, n_layers=2).source("gguf"), *FEW_BITS),
}


@dataclass
class Subject:
    """One model on one backend, and on the plainest instance of it: the logits of prompts alone are kept."""

    executable: Executable
    plain: Executable
    alone_logits: dict[Prompt, F32Array] = field(default_factory=dict)

    def alone(self, prompt: Prompt) -> F32Array:
        if prompt not in self.alone_logits:
            driver = Driver(self.plain, KV)
            self.alone_logits[prompt] = driver.step({"alone": Chunk.every(prompt)})["alone"]
        return self.alone_logits[prompt]


@pytest.fixture(scope="module", params=[*BACKENDS, "cpu-3"])
def backend_name(request: pytest.FixtureRequest) -> str:
    make_backend(request.param)  # skips where it is not built
    return request.param


@pytest.fixture(scope="module", params=MODELS)
def subject(request: pytest.FixtureRequest, backend_name: str) -> Subject:
    program = load_model(MODELS[request.param]).program
    plain = "cpu-1" if backend_name.startswith("cpu") else backend_name
    return Subject(make_backend(backend_name).compile(program, KV), make_backend(plain).compile(program, KV))


@pytest.fixture(scope="module", params=other_paths())
def path_subject(request: pytest.FixtureRequest) -> dict[str, Subject]:
    """Every model on a path that does not run by default, against the default one."""
    other, plain = make_backend(f"cpu-2:{request.param}"), make_backend("cpu-1")
    programs = {name: load_model(source).program for name, source in MODELS.items()}
    return {name: Subject(other.compile(p, KV), plain.compile(p, KV)) for name, p in programs.items()}


@st.composite
def prompts(draw: st.DrawFn) -> dict[str, Prompt]:
    """Up to four prompts. Tokens come from a seed: their values matter little, and shrinking lengths says more."""
    lengths = draw(st.lists(st.integers(1, MAX_PROMPT), min_size=1, max_size=4))
    random = np.random.default_rng(draw(st.integers(0, 3)))
    return {f"s{i}": tuple(random.integers(0, 48, n).tolist()) for i, n in enumerate(lengths)}


def draw_step(data: st.DataObject, left: dict[str, Prompt]) -> dict[str, Chunk]:
    """Some of the sequences that have tokens left, in any order, each with a chunk that wants some rows' logits."""
    names = data.draw(st.lists(st.sampled_from(sorted(left)), min_size=1, unique=True))
    chunks = {}
    for name in names:
        size = data.draw(st.one_of(st.just(1), st.integers(1, len(left[name]))))
        size = min(size, len(left[name]))
        outputs = range(size) if data.draw(st.booleans()) else [size - 1]
        chunks[name] = Chunk(left[name][:size], outputs)
    return chunks


def draw_fork(data: st.DataObject, driver: Driver, full: dict[str, Prompt], left: dict[str, Prompt]) -> None:
    """Perhaps lets a new sequence go on, with other tokens, from the pages of one that there is."""
    if len(full) < MAX_SEQUENCES and driver.sequences and data.draw(st.booleans(), label="fork"):
        source, target = data.draw(st.sampled_from(sorted(driver.sequences))), f"fork{len(full)}"
        driver.fork(source, target)
        left[target] = tuple(data.draw(st.lists(st.integers(0, 47), min_size=1, max_size=20)))
        full[target] = full[source][: driver.sequences[source].length] + left[target]


def draw_move(data: st.DataObject, driver: Driver) -> None:
    """Perhaps saves a sequence and restores it in other pages."""
    if driver.sequences and not driver.copies_wait and data.draw(st.sampled_from([False, False, True]), label="move"):
        driver.move(data.draw(st.sampled_from(sorted(driver.sequences))))


def check_schedule(subject: Subject, full: dict[str, Prompt], data: st.DataObject) -> None:
    """Runs the prompts by a random schedule of up to a dozen steps; every logit asked for must have the right bits."""
    driver = Driver(subject.executable, KV, np.random.default_rng(data.draw(st.integers(0, 99))))
    full, left = dict(full), dict(full)
    for _ in range(12):
        draw_move(data, driver)
        draw_fork(data, driver, full, left)
        if not left:
            return
        chunks = draw_step(data, left)
        for name, logits in driver.step(chunks).items():
            done = len(full[name]) - len(left[name])
            rows = [done + row for row in chunks[name].outputs]
            np.testing.assert_array_equal(logits, subject.alone(full[name])[rows])
            left[name] = left[name][len(chunks[name].tokens) :]
        left = {name: tokens for name, tokens in left.items() if tokens}


@settings(deadline=None, max_examples=4, derandomize=True)
@given(given_prompts=prompts(), data=st.data())
def test_any_schedule_gives_the_bits_of_the_sequence_alone(
    subject: Subject, given_prompts: dict[str, Prompt], data: st.DataObject
) -> None:
    check_schedule(subject, given_prompts, data)


@settings(deadline=None, max_examples=6, derandomize=True)
@given(given_prompts=prompts(), name=st.sampled_from(sorted(MODELS)), data=st.data())
def test_any_path_gives_the_bits_of_the_default_one(
    path_subject: dict[str, Subject], given_prompts: dict[str, Prompt], name: str, data: st.DataObject
) -> None:
    check_schedule(path_subject[name], given_prompts, data)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(given_prompts=prompts(), name=st.sampled_from(sorted(MODELS)), data=st.data())
def test_very_many_schedules_on_any_path(
    path_subject: dict[str, Subject], given_prompts: dict[str, Prompt], name: str, data: st.DataObject
) -> None:
    check_schedule(path_subject[name], given_prompts, data)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(given_prompts=prompts(), data=st.data())
def test_very_many_schedules(subject: Subject, given_prompts: dict[str, Prompt], data: st.DataObject) -> None:
    check_schedule(subject, given_prompts, data)
