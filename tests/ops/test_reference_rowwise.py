"""Ops of the reference backend that work on each row by itself, against plain formulas in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from plait.ops.api import Activation, KVConfig, KVGroup, KVShape, Value, Weight
from plait.ops.recorder import Ops
from plait.ops.reference import ReferenceBackend
from support.steps import Chunk, Driver
from support.tensors import random_weight, weight

SHAPE = KVShape(1, 2, 2, (KVGroup((0,)),))
KV = KVConfig(4, (8,), "f32")
ROWS, WIDTH = 5, 12


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def table(rng: np.random.Generator) -> Weight:
    """The embedding table is the input: row r of the step is its row r."""
    return random_weight(rng, "table", ROWS, WIDTH)


def run(table: Weight, build: Callable[[Ops, Value], Value], backend: ReferenceBackend | None = None) -> np.ndarray:
    """What `build` makes of the rows of `table`."""
    ops = Ops(SHAPE, 1)
    program = ops.finish(ops.take_rows(build(ops, ops.embed(table))))
    executable = (backend or ReferenceBackend()).compile(program, KV)
    return Driver(executable, KV).step({"s": Chunk.every(range(ROWS))})["s"]


def f64(w: Weight) -> np.ndarray:
    return w.tensor.numpy().astype(np.float64)


def close(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_embed_gives_the_tokens_rows(table: Weight) -> None:
    ops = Ops(SHAPE, 1)
    executable = ReferenceBackend().compile(ops.finish(ops.take_rows(ops.embed(table))), KV)
    got = Driver(executable, KV).step({"s": Chunk([3, 0, 3, 4], [0, 1, 3])})["s"]
    np.testing.assert_array_equal(got, table.tensor.numpy()[[3, 0, 4]])


@pytest.mark.parametrize("with_bias", [False, True])
def test_linears(table: Weight, rng: np.random.Generator, with_bias: bool) -> None:
    weights = tuple(random_weight(rng, f"w{n}", n, WIDTH) for n in (3, 7))
    biases = tuple(random_weight(rng, f"b{n}", n) if with_bias else None for n in (3, 7))
    for i in range(2):
        got = run(table, lambda ops, x, i=i: ops.linears(x, weights, biases)[i])
        want = f64(table) @ f64(weights[i]).T + (f64(biases[i]) if biases[i] else 0)
        close(got, want)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("groups", [1, 3])
def test_rms_norm(table: Weight, rng: np.random.Generator, offset: float, groups: int) -> None:
    gain = random_weight(rng, "gain", WIDTH // groups)
    got = run(table, lambda ops, x: ops.rms_norm(x, gain, 1e-5, offset=offset, groups=groups))
    want = np.empty((ROWS, WIDTH))
    for r in range(ROWS):
        for part in np.split(np.arange(WIDTH), groups):
            x = f64(table)[r, part]
            want[r, part] = x / math.sqrt((x**2).mean() + 1e-5) * (f64(gain) + offset)
    close(got, want)


def test_add_rms_norm_returns_norm_and_total(table: Weight, rng: np.random.Generator) -> None:
    gain, other = random_weight(rng, "gain", WIDTH), random_weight(rng, "other", WIDTH, WIDTH)
    total = f64(table) + f64(table) @ f64(other).T
    want = total / np.sqrt((total**2).mean(axis=1, keepdims=True) + 1e-6) * f64(gain)
    close(run(table, lambda ops, x: ops.add_rms_norm(x, ops.linear(x, other), gain, 1e-6)[0]), want)
    close(run(table, lambda ops, x: ops.add_rms_norm(x, ops.linear(x, other), gain, 1e-6)[1]), total)


@pytest.mark.parametrize("with_bias", [False, True])
def test_layer_norm(table: Weight, rng: np.random.Generator, with_bias: bool) -> None:
    gain, bias = random_weight(rng, "gain", WIDTH), random_weight(rng, "bias", WIDTH) if with_bias else None
    x = f64(table)
    want = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * f64(gain)
    close(run(table, lambda ops, x: ops.layer_norm(x, gain, bias, 1e-5)), want + (f64(bias) if bias else 0))


def naive_activation(x: np.ndarray, activation: Activation) -> np.ndarray:
    if activation is Activation.SILU:
        return x / (1 + np.exp(-x))
    if activation is Activation.GELU:
        return x * np.vectorize(lambda t: 0.5 * math.erfc(-t / math.sqrt(2)))(x)
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def naive_mlp(x: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray, act: Activation) -> np.ndarray:
    return (naive_activation(x @ gate.T, act) * (x @ up.T)) @ down.T


@pytest.mark.parametrize("activation", list(Activation))
def test_gated_mlp(table: Weight, rng: np.random.Generator, activation: Activation) -> None:
    gate, up = random_weight(rng, "gate", 9, WIDTH), random_weight(rng, "up", 9, WIDTH)
    down = random_weight(rng, "down", WIDTH, 9)
    got = run(table, lambda ops, x: ops.gated_mlp(x, gate, up, down, activation))
    close(got, naive_mlp(f64(table), f64(gate), f64(up), f64(down), activation))


def test_gated_mlp_with_biases(table: Weight, rng: np.random.Generator) -> None:
    gate, up = random_weight(rng, "gate", 9, WIDTH), random_weight(rng, "up", 9, WIDTH)
    down, b = random_weight(rng, "down", WIDTH, 9), tuple(random_weight(rng, "b", n) for n in (9, 9, WIDTH))
    got = run(table, lambda ops, x: ops.gated_mlp(x, gate, up, down, Activation.SILU, b))
    x = f64(table)
    hidden = naive_activation(x @ f64(gate).T + f64(b[0]), Activation.SILU) * (x @ f64(up).T + f64(b[1]))
    close(got, hidden @ f64(down).T + f64(b[2]))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_moe(table: Weight, rng: np.random.Generator, normalise: bool, top_k: int) -> None:
    router = random_weight(rng, "router", 4, WIDTH)
    gate, up = random_weight(rng, "gate", 4, 6, WIDTH), random_weight(rng, "up", 4, 6, WIDTH)
    down = random_weight(rng, "down", 4, WIDTH, 6)
    args = {"top_k": top_k, "normalise": normalise, "activation": Activation.SILU}
    got = run(table, lambda ops, x: ops.moe(x, router, gate, up, down, **args))
    want = np.zeros((ROWS, WIDTH))
    for r, x in enumerate(f64(table)):
        p = np.exp(f64(router) @ x) / np.exp(f64(router) @ x).sum()
        best = sorted(range(4), key=lambda e: -p[e])[:top_k]
        for e in best:
            share = p[e] / sum(p[b] for b in best) if normalise else p[e]
            want[r] += share * naive_mlp(x[None], f64(gate)[e], f64(up)[e], f64(down)[e], Activation.SILU)[0]
    close(got, want)


def test_moe_ties_go_to_the_lower_index(table: Weight, rng: np.random.Generator) -> None:
    router, gate = weight("router", np.zeros((3, WIDTH))), random_weight(rng, "gate", 3, 6, WIDTH)
    up, down = random_weight(rng, "up", 3, 6, WIDTH), random_weight(rng, "down", 3, WIDTH, 6)
    args = {"top_k": 1, "normalise": True, "activation": Activation.SILU}
    got = run(table, lambda ops, x: ops.moe(x, router, gate, up, down, **args))
    close(got, naive_mlp(f64(table), f64(gate)[0], f64(up)[0], f64(down)[0], Activation.SILU))


def test_add_scale_softcap(table: Weight) -> None:
    x = f64(table)
    close(run(table, lambda ops, x: ops.add(x, ops.scale(x, 0.25))), 1.25 * x)
    close(run(table, lambda ops, x: ops.softcap(x, 1.5)), 1.5 * np.tanh(x / 1.5))


def test_accumulating_in_float64_is_closer(rng: np.random.Generator) -> None:
    table, w = random_weight(rng, "table", ROWS, 4096), random_weight(rng, "w", 16, 4096)
    want = f64(table) @ f64(w).T
    plain = run(table, lambda ops, x: ops.linear(x, w))
    exact = run(table, lambda ops, x: ops.linear(x, w), ReferenceBackend(np.float32, np.float64))
    np.testing.assert_array_equal(exact, want.astype(np.float32))
    assert not np.array_equal(plain, exact)


def test_infinities_pass_without_a_warning(rng: np.random.Generator) -> None:
    table = weight("table", np.full((ROWS, WIDTH), 3e38))
    assert np.isinf(run(table, lambda ops, x: ops.add(x, x))).all()


def test_progress_counts_each_tensor_once(table: Weight) -> None:
    ops = Ops(SHAPE, 1)
    program = ops.finish(ops.linear(ops.take_rows(ops.embed(table)), table))
    seen: list[tuple[int, int]] = []
    ReferenceBackend().compile(program, KV, lambda done, total: seen.append((done, total)))
    assert seen == [(table.tensor.nbytes, table.tensor.nbytes)]
