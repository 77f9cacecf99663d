"""The torch backend, on torch's CPU device, against the reference backend: every instruction, random schedules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest

from plait.errors import BackendError
from plait.ops.api import Activation, Backend, KVConfig, KVGroup, KVShape, Program, Rope, RopeLayout, Value
from plait.ops.cuda import open_cuda
from plait.ops.recorder import Ops
from plait.ops.reference import ReferenceBackend
from support.steps import Chunk, Driver
from support.tensors import random_weight

if TYPE_CHECKING:
    from plait.ops.cuda.backend import CudaExecutable

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("one_torch_thread")]

VOCAB, D, HEADS, KV_HEADS, DIM, V_DIM = 30, 24, 4, 2, 8, 6
CONFIG = KVConfig(4, (60, 60), "f32")
HALF = Rope(RopeLayout.HALF, (1.0, 0.3, 0.05), 1.2)
INTERLEAVED = Rope(RopeLayout.INTERLEAVED, (0.7, 0.2, 0.04, 0.01))


def everything() -> Program:
    """Two layers in two KV groups, with every instruction and most of their options."""
    rng = np.random.default_rng(5)

    def w(name: str, *shape: int) -> object:
        return random_weight(rng, name, *shape, scale=0.3)

    ops = Ops(KVShape(KV_HEADS, DIM, V_DIM, (KVGroup((0,)), KVGroup((1,), 7))), HEADS)
    x = ops.scale(ops.embed(w("table", VOCAB, D)), 1.7)
    for layer, (rope, cap) in enumerate(((HALF, None), (INTERLEAVED, 4.0))):
        normed = ops.rms_norm(x, w(f"{layer}.norm", D), 1e-5, offset=1.0)
        widths = (HEADS * DIM, KV_HEADS * DIM, KV_HEADS * V_DIM)
        weights = tuple(w(f"{layer}.qkv{i}", n, D) for i, n in enumerate(widths))
        q, k, v = ops.linears(normed, weights, (w(f"{layer}.qb", HEADS * DIM), None, w(f"{layer}.vb", widths[2])))
        q = ops.rms_norm(q, w(f"{layer}.qnorm", DIM), 1e-6, groups=HEADS, offset=1.0)
        q = ops.rope_and_store(q, k, v, layer=layer, rope=rope)
        sinks = w(f"{layer}.sinks", HEADS) if layer else None
        mixed = ops.attention(q, layer=layer, scale=0.4, softcap=cap, sinks=sinks)
        mixed = ops.linear(mixed, w(f"{layer}.o", D, HEADS * V_DIM))
        normed, x = ops.add_rms_norm(mixed, x, w(f"{layer}.norm2", D), 1e-5, offset=1.0)
        gate, up, down = w(f"{layer}.gate", 20, D), w(f"{layer}.up", 20, D), w(f"{layer}.down", D, 20)
        biases = (w(f"{layer}.gb", 20), None, w(f"{layer}.db", D))
        mlp = ops.gated_mlp(normed, gate, up, down, list(Activation)[layer], biases)
        x = ops.add(x, mlp)
    x = ops.take_rows(ops.layer_norm(x, w("ln", D), w("lnb", D), 1e-5))
    return ops.finish(ops.softcap(ops.linear(x, w("head", VOCAB, D)), 5.0))


PROGRAM = everything()


def cuda_driver(program: Program = PROGRAM, config: KVConfig = CONFIG, dtype: str = "f32", seed: int = 3) -> Driver:
    executable = open_cuda("cpu", dtype).compile(program, config)
    return Driver(executable, config, np.random.default_rng(seed))


def reference_driver(program: Program = PROGRAM, config: KVConfig = CONFIG, seed: int = 3) -> Driver:
    return Driver(ReferenceBackend().compile(program, config), config, np.random.default_rng(seed))


def random_tokens(n: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, n).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_random_schedules_agree(seed: int) -> None:
    """Prompts in chunks beside decoding sequences, sequences that join late, rows without logits."""
    rng = np.random.default_rng(seed)
    ours, theirs = cuda_driver(seed=seed), reference_driver(seed=seed)
    for _ in range(7):
        chosen = [name for name in "abcd" if rng.random() < 0.7] or ["a"]
        chunks = {}
        for name in chosen:
            n = int(rng.choice([1, 1, 2, 9]))
            outputs = sorted(rng.choice(n, int(rng.integers(0, n + 1)), replace=False).tolist())
            chunks[name] = Chunk(rng.integers(0, VOCAB, n).tolist(), outputs)
        got, want = ours.step(chunks), theirs.step(chunks)
        for name in chosen:
            np.testing.assert_allclose(got[name], want[name], rtol=2e-5, atol=2e-5)


def test_hidden_states_agree_and_rows_may_go_without_logits() -> None:
    ours, theirs = cuda_driver(), reference_driver()
    step = ours.pack({"a": Chunk.every(random_tokens(9, 1)), "b": Chunk.every([4])})
    logits, hidden = ours.executable.run(step), ours.executable.hidden()
    theirs.executable.run(step)
    np.testing.assert_allclose(hidden, theirs.executable.hidden(), rtol=2e-5, atol=2e-5)
    fewer = ours.executable.run(replace(step, hidden_only=4))
    np.testing.assert_allclose(fewer, logits[:6], rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(ours.executable.hidden(), hidden)


def test_a_prompt_longer_than_a_query_block() -> None:
    prompt = random_tokens(200, 1)
    chunks = {"a": Chunk.every(prompt), "b": Chunk.every([4]), "c": Chunk.every([5])}
    got, want = cuda_driver().step(chunks), reference_driver().step(chunks)
    for name in chunks:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("f16", 0.01), ("bf16", 0.08)])
def test_half_precision_is_near(dtype: str, tolerance: float) -> None:
    """As near as numpy that rounds to that type after every op, which is the yardstick, within a factor of 3."""
    config = KVConfig(4, (60, 60), dtype)
    chunks = {"a": Chunk.every(random_tokens(40, 2)), "b": Chunk.every([3])}
    exact = reference_driver().step(chunks)
    numpy_dtype = np.float16 if dtype == "f16" else ml_dtypes.bfloat16
    rounding = ReferenceBackend(numpy_dtype, np.float32).compile(PROGRAM, config)
    rounded = Driver(rounding, config, np.random.default_rng(3)).step(chunks)
    got = cuda_driver(config=config, dtype=dtype).step(chunks)
    for name in chunks:
        error, yardstick = (float(np.abs(x[name] - exact[name]).max()) for x in (got, rounded))
        assert 0 < error < min(tolerance, 3 * yardstick)


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 11])
def test_experts(activation: Activation, normalise: bool, rows: int) -> None:
    """Few rows gather their experts' weights, many go through all of them: the same sums."""
    rng = np.random.default_rng(9)

    def build(ops: Ops, x: Value) -> Value:
        router, gate = random_weight(rng, "router", 5, D), random_weight(rng, "gate", 5, 7, D, scale=0.4)
        up, down = random_weight(rng, "up", 5, 7, D, scale=0.4), random_weight(rng, "down", 5, D, 7, scale=0.4)
        return ops.moe(x, router, gate, up, down, top_k=2, normalise=normalise, activation=activation)

    _assert_same(rows_program(build), rows)


def test_equally_probable_experts_go_by_index() -> None:
    rng = np.random.default_rng(9)

    def build(ops: Ops, x: Value) -> Value:
        router = random_weight(rng, "router", 5, D, scale=0)
        gate, up = random_weight(rng, "gate", 5, 7, D), random_weight(rng, "up", 5, 7, D)
        down = random_weight(rng, "down", 5, D, 7)
        return ops.moe(x, router, gate, up, down, top_k=2, normalise=True, activation=Activation.SILU)

    _assert_same(rows_program(build), 2)


def rows_program(build: Callable[[Ops, Value], Value]) -> Program:
    ops = Ops(KVShape(1, 2, 2, (KVGroup((0,)), KVGroup((1,)))), 1)
    x = ops.embed(random_weight(np.random.default_rng(1), "table", VOCAB, D))
    return ops.finish(ops.take_rows(build(ops, x)))


def _assert_same(program: Program, rows: int) -> None:
    chunks = {"s": Chunk.every(range(rows))}
    got, want = cuda_driver(program).step(chunks)["s"], reference_driver(program).step(chunks)["s"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_masked_keys_leave_no_trace_of_nan() -> None:
    """NaN spoils the rows that see it, in a chunk and in decoding, and no others."""
    program = everything()
    table = next(op for op in program.instructions if type(op).__name__ == "Embed").table.tensor.numpy()
    table[0] = np.nan
    driver, clean = cuda_driver(program), cuda_driver(program)
    first = driver.step({"bad": Chunk.every([5, 6, 0, 7]), "good": Chunk.every([5, 6])})
    assert np.isfinite(first["bad"][:2]).all()
    assert np.isnan(first["bad"][2:]).all()
    want = clean.step({"good": Chunk.every([5, 6])})
    np.testing.assert_allclose(first["good"], want["good"], rtol=1e-5, atol=1e-5)
    second = driver.step({"bad": Chunk.every([3]), "good": Chunk.every([3])})
    assert np.isnan(second["bad"]).all()
    np.testing.assert_allclose(second["good"], clean.step({"good": Chunk.every([3])})["good"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 20])
def test_nothing_in_a_step_depends_on_a_number(rows: int) -> None:
    """So that it can be captured: it runs on torch's "meta" device, where tensors have shapes and no numbers."""
    from plait.ops.cuda.step import upload

    rng = np.random.default_rng(2)

    def add_experts(ops: Ops, x: Value) -> Value:
        shapes = {"router": (8, D), "gate": (8, 7, D), "up": (8, 7, D), "down": (8, D, 7)}
        weights = (random_weight(rng, name, *shape) for name, shape in shapes.items())
        return ops.moe(x, *weights, top_k=2, normalise=True, activation=Activation.SILU)

    for program in (PROGRAM, rows_program(add_experts)):
        executable: CudaExecutable = open_cuda("meta", "bf16").compile(program, CONFIG)  # type: ignore[assignment]
        step = Driver(executable, CONFIG).pack({"s": Chunk.every(range(rows)), "t": Chunk.every([1])})
        logits = executable.interpret(upload(step, CONFIG.page_size, torch.device("meta")))
        assert tuple(logits.shape) == (rows + 1, program.logits.width)


def test_a_step_without_outputs_gives_no_logits() -> None:
    assert cuda_driver().step({"s": Chunk([1, 2])})["s"].shape == (0, VOCAB)


def test_outside_the_memory_is_refused() -> None:
    driver = cuda_driver()
    step = driver.pack({"s": Chunk.every([VOCAB])})
    with pytest.raises(ValueError, match="token"):
        driver.executable.run(step)


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [("cpu", "f8", "f8"), ("cuda:99", "bf16", "cuda:99"), ("abacus", "f32", "abacus")],
)
def test_what_is_not_there_is_refused_by_name(device: str, dtype: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        open_cuda(device, dtype)


def test_kv_types_that_are_not_stored_are_refused() -> None:
    with pytest.raises(BackendError, match="q8_0"):
        open_cuda("cpu", "f32").compile(PROGRAM, KVConfig(4, (5, 5), "q8_0"))


def test_progress_ends_at_the_number_of_bytes() -> None:
    seen: list[tuple[int, int]] = []
    backend: Backend = open_cuda("cpu", "f32")
    backend.compile(PROGRAM, CONFIG, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert seen == sorted(seen)
