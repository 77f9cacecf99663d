"""Attention in pieces: prefixes read once for many sequences, long contexts divided over threads. Never a bit changes
from each sequence alone on one thread; and the sums are right."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.formats.tensor import F32Array
from plait.ops.api import KVConfig, Program
from plait.ops.cpu import CpuBackend, CpuExecutable
from plait.ops.reference import ReferenceBackend
from support.programs import VOCAB, everything
from support.steps import Chunk, Driver

PATHS = CpuBackend.paths()
PROGRAMS = {
    "grouped": everything(d=16, heads=6, kv_heads=2, dim=8, v_dim=12, ff=8, window=200),
    "one KV head": everything(d=16, heads=4, kv_heads=1, dim=32, v_dim=32, ff=8, window=70),
}
CONFIG = KVConfig(16, (400, 400))
LONG = 1700  # keys of more than three pieces


def new_driver(program: Program, path: str = PATHS[0], threads: int = 1, seed: int = 1) -> Driver:
    executable: CpuExecutable = CpuBackend(threads, path).compile(program, CONFIG)
    return Driver(executable, CONFIG, np.random.default_rng(seed))


def prompt(n: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, VOCAB, n).tolist())


@cache
def alone(program: str, tokens: tuple[int, ...]) -> F32Array:
    """Every row's logits, on one thread: neither shared nor divided."""
    return new_driver(PROGRAMS[program]).step({"s": Chunk.every(tokens)})["s"]


def same(got: F32Array, want: F32Array) -> None:
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize("program", PROGRAMS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_sequences_that_share_a_beginning_get_the_bits_of_each_alone(program: str, data: st.DataObject) -> None:
    """A tree of forks: prefixes of several lengths, some shared by few, some by all, with chunks of any size."""
    driver = new_driver(PROGRAMS[program], data.draw(st.sampled_from(PATHS)), data.draw(st.integers(1, 4)))
    tokens = {"s0": prompt(data.draw(st.integers(40, 250)))}
    driver.step({"s0": Chunk(tokens["s0"])})
    for round_ in range(3):
        for _ in range(data.draw(st.integers(1, 8))):
            source, name = data.draw(st.sampled_from(sorted(tokens))), f"s{len(tokens)}"
            driver.fork(source, name)
            tokens[name] = tokens[source]
        chunks = {}
        for i, name in enumerate(tokens):
            n = data.draw(st.one_of(st.just(1), st.integers(1, 40)))
            chunks[name] = Chunk.every(prompt(n, 100 * round_ + i + 1))
        for name, got in driver.step(chunks).items():
            tokens[name] += tuple(chunks[name].tokens)
            same(got, alone(program, tokens[name])[-len(got) :])


@pytest.mark.parametrize("path", PATHS)
def test_long_contexts_are_divided_without_changing_a_bit(path: str) -> None:
    tokens = prompt(LONG)
    for threads in (2, 4):
        driver = new_driver(PROGRAMS["grouped"], path, threads)
        driver.step({"s": Chunk(tokens[:-9])})
        got = [driver.step({"s": Chunk.every(tokens[i : i + n])})["s"] for i, n in ((LONG - 9, 1), (LONG - 8, 8))]
        same(np.concatenate(got), alone("grouped", tokens)[-9:])


@pytest.mark.parametrize("own", [3, 700])
@pytest.mark.parametrize("common", [64, 1024])
def test_what_is_shared_and_what_is_not_may_both_be_long(common: int, own: int) -> None:
    driver = new_driver(PROGRAMS["grouped"], threads=4)
    driver.step({"a": Chunk(prompt(common))})
    names = list("abcde")
    for name in names[1:]:
        driver.fork("a", name)
    own_tokens = {name: prompt(own, ord(name)) for name in names}
    driver.step({name: Chunk(own_tokens[name][:-1]) for name in names})
    for name, got in driver.step({name: Chunk.every(own_tokens[name][-1:]) for name in names}).items():
        same(got, alone("grouped", prompt(common) + own_tokens[name])[-1:])


def test_pieces_are_near_the_reference() -> None:
    """The reference gets the keys from us: it would take long to compute them."""
    program = PROGRAMS["grouped"]
    reference = Driver(ReferenceBackend(np.float32, np.float64).compile(program, CONFIG), CONFIG)
    ours = new_driver(program, threads=4)
    tokens = Chunk(prompt(1100))
    ours.step({"a": tokens})
    reference.pack({"a": tokens})
    for g in (0, 1):
        saved = ours.executable.read_slots(g, ours.slots("a", g))
        reference.executable.write_slots(g, reference.slots("a", g), saved)
    steps = []
    for driver in (ours, reference):
        driver.fork("a", "b")
        got = driver.step({"a": Chunk.every([3]), "b": Chunk.every([4, 5])})
        steps.append(np.concatenate([got["a"], got["b"]]))
    np.testing.assert_allclose(*steps, rtol=2e-3, atol=2e-3)  # f16
