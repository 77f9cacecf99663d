"""The CPU backend against the reference backend: every instruction, odd sizes, random schedules, every SIMD path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from plait.errors import BackendError
from plait.ops.api import Activation, KVConfig, Program, Value, Weight
from plait.ops.cpu import CpuBackend
from plait.ops.recorder import Ops
from plait.ops.reference import ReferenceBackend
from support.programs import VOCAB, everything, rows_program
from support.steps import Chunk, Driver
from support.tensors import random_weight

PATHS = CpuBackend.paths()
CONFIG = KVConfig(4, (60, 60), "f32")
ONE_GROUP = KVConfig(4, (60,), "f32")
PROGRAMS = {
    "tiny": everything(),
    "one KV head, odd sizes": everything(d=37, heads=3, kv_heads=1, dim=9, v_dim=13, ff=19),
    "heads of 24 and 80": everything(d=48, heads=5, kv_heads=1, dim=24, v_dim=80, ff=20),
    "whole vectors": everything(d=64, heads=8, kv_heads=8, dim=64, v_dim=32, ff=96),
}
EXACT = ReferenceBackend(np.float32, np.float64)


def drivers(program: Program, config: KVConfig, path: str, seed: int) -> tuple[Driver, Driver]:
    ours, theirs = CpuBackend(2, path).compile(program, config), EXACT.compile(program, config)
    return (Driver(ours, config, np.random.default_rng(seed)), Driver(theirs, config, np.random.default_rng(seed)))


def close(got: np.ndarray, want: np.ndarray) -> None:
    """Within 1e-5 of the row's largest value."""
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= 1e-5 * max(np.abs(want).max(initial=0), 1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_random_schedules_agree(program: Program, path: str) -> None:
    """Prompts in chunks beside decoding sequences, sequences that join late, rows without logits."""
    rng = np.random.default_rng(3)
    ours, theirs = drivers(program, CONFIG, path, 3)
    for _ in range(8):
        chunks = {}
        for name in [name for name in "abcd" if rng.random() < 0.7] or ["a"]:
            n = int(rng.choice([1, 1, 2, 9]))
            outputs = sorted(rng.choice(n, int(rng.integers(0, n + 1)), replace=False).tolist())
            chunks[name] = Chunk(rng.integers(0, VOCAB, n).tolist(), outputs)
        got, want = ours.step(chunks), theirs.step(chunks)
        for name in chunks:
            close(got[name], want[name])


@pytest.mark.parametrize("path", PATHS)
def test_prompts_longer_than_a_block_of_keys(path: str) -> None:
    program = everything(window=70)
    ours, theirs = drivers(program, CONFIG, path, 1)
    rng = np.random.default_rng(2)
    for n in (150, 1, 30):
        chunks = {"a": Chunk.every(rng.integers(0, VOCAB, n).tolist()), "b": Chunk.every([4])}
        got, want = ours.step(chunks), theirs.step(chunks)
        for name in chunks:
            close(got[name], want[name])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("kv_type", "tolerance"), [("f16", 4e-3), ("bf16", 3e-2), ("q8_0", 2e-2)])
def test_kv_types(path: str, kv_type: str, tolerance: float) -> None:
    """Rounded alike, but for ties that float32 and float64 round apart: near the reference, and not what f32 gives."""
    program, config = PROGRAMS["whole vectors"], KVConfig(16, (20, 20), kv_type)
    ours, theirs = drivers(program, config, path, 1)
    exact, _ = drivers(program, replace(config, kv_type="f32"), path, 1)
    rng = np.random.default_rng(2)
    for n in (100, 1, 30):
        chunks = {"a": Chunk.every(rng.integers(0, VOCAB, n).tolist())}
        got, want, unrounded = (driver.step(chunks)["a"] for driver in (ours, theirs, exact))
        scale = np.abs(want).max()
        assert np.abs(got - want).max() < tolerance / 4 * scale
        assert np.abs(got - want).mean() < np.abs(got - unrounded).mean() / 4


def test_heads_that_q8_0_cannot_hold_are_refused_by_name() -> None:
    for backend in (CpuBackend(1), EXACT):
        with pytest.raises(BackendError, match="q8_0 keeps K and V in blocks of 32 numbers; a head has 8"):
            backend.compile(PROGRAMS["tiny"], replace(CONFIG, kv_type="q8_0"))


def run_rows(build: Callable[[Ops, Value], Value], table: Weight, rows: int, path: str | None = None) -> None:
    program = rows_program(build, table)
    ours, theirs = drivers(program, ONE_GROUP, path or PATHS[0], 0)
    chunks = {"s": Chunk.every([r % table.shape[0] for r in range(rows)])}
    close(ours.step(chunks)["s"], theirs.step(chunks)["s"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("inputs", [1, 5, 15, 16, 17, 33, 48, 100])
@pytest.mark.parametrize("outputs", [1, 3, 4, 7, 16, 21, 130])
def test_linear_of_any_size(path: str, inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(inputs * 1000 + outputs)
    table, weight = random_weight(rng, "table", 9, inputs), random_weight(rng, "weight", outputs, inputs)
    bias = random_weight(rng, "bias", outputs)
    for rows in (1, 2, 3, 4, 5, 9):
        run_rows(lambda ops, x: ops.linear(x, weight, bias), table, rows, path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 11])
def test_experts(path: str, activation: Activation, normalise: bool, rows: int) -> None:
    rng = np.random.default_rng(9)
    table, router = random_weight(rng, "table", 12, 24), random_weight(rng, "router", 6, 24)
    gate, up, down = (
        random_weight(rng, n, 6, *s, scale=0.3) for n, *s in (("g", 70, 24), ("u", 70, 24), ("d", 24, 70))
    )

    def build(ops: Ops, x: Value) -> Value:
        return ops.moe(x, router, gate, up, down, top_k=3, normalise=normalise, activation=activation)

    run_rows(build, table, rows, path)


def test_equally_probable_experts_go_by_index() -> None:
    rng = np.random.default_rng(9)
    table, router = random_weight(rng, "table", 12, 24), random_weight(rng, "router", 5, 24, scale=0)
    gate, up, down = (random_weight(rng, n, 5, *s, scale=0.3) for n, *s in (("g", 7, 24), ("u", 7, 24), ("d", 24, 7)))

    def build(ops: Ops, x: Value) -> Value:
        return ops.moe(x, router, gate, up, down, top_k=2, normalise=True, activation=Activation.SILU)

    run_rows(build, table, 3)


@pytest.mark.parametrize("path", PATHS)
def test_norms(path: str) -> None:
    rng = np.random.default_rng(4)
    table, residual = random_weight(rng, "table", 12, 42, scale=3), random_weight(rng, "residual", 42, 42)
    gain, shift, part = (random_weight(rng, "w", n) for n in (42, 42, 14))
    run_rows(lambda ops, x: ops.rms_norm(x, gain, 1e-5, offset=1.0), table, 10, path)
    run_rows(lambda ops, x: ops.rms_norm(x, part, 1e-5, groups=3), table, 10, path)
    run_rows(lambda ops, x: ops.layer_norm(x, gain, shift, 1e-5), table, 10, path)
    run_rows(lambda ops, x: ops.layer_norm(x, gain, None, 1e-5), table, 10, path)
    for which in (0, 1):  # the norm, and the sum
        run_rows(lambda ops, x, i=which: ops.add_rms_norm(x, ops.linear(x, residual), gain, 1e-5)[i], table, 10, path)


def test_values_that_are_read_late_are_kept() -> None:
    """A value is read long after others came and went in the same memory."""
    rng = np.random.default_rng(6)
    table, square = random_weight(rng, "table", 12, 20), random_weight(rng, "square", 20, 20, scale=0.3)

    def build(ops: Ops, x: Value) -> Value:
        y = x
        for _ in range(6):
            y = ops.add(ops.linear(y, square), ops.scale(y, 0.5))
        return ops.add(y, x)

    run_rows(build, table, 9)
