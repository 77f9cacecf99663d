"""The CPU backend around its kernels: what it refuses, threads, forks, memory that it holds and hands out."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plait.errors import BackendError
from plait.formats.tensor import F32Array
from plait.ops.api import KVConfig, KVShape, Program, Rope, RopeLayout, Value, Weight
from plait.ops.cores import usable_cores, usable_cpus
from plait.ops.cpu import CpuBackend, CpuExecutable
from plait.ops.recorder import Ops
from support.programs import VOCAB, everything, rows_program
from support.steps import Chunk, Driver
from support.tensors import ArrayTensor, random_weight

CONFIG = KVConfig(4, (60, 60), "f16")
ONE_GROUP = KVConfig(4, (60,), "f16")
PROGRAM = everything()


def linear(rows: int = 3, columns: int = 32) -> tuple[Program, Weight]:
    rng = np.random.default_rng(0)
    table, matrix = random_weight(rng, "table", 8, columns), random_weight(rng, "matrix", rows, columns)
    return rows_program(lambda ops, x: ops.linear(x, matrix), table), matrix


def test_an_unknown_format_is_refused_by_name() -> None:
    odd = Weight(ArrayTensor("blk.0.ffn_up.weight", np.ones((4, 32), np.float32), "NVFP4"))
    program = rows_program(lambda ops, x: ops.linear(x, odd), random_weight(np.random.default_rng(0), "t", 8, 32))
    with pytest.raises(BackendError, match=r"'blk.0.ffn_up.weight' is NVFP4.*F32, F16, BF16, Q8_0"):
        CpuBackend(1).compile(program, ONE_GROUP)


def test_what_cannot_be_compiled() -> None:
    with pytest.raises(BackendError, match="f32, f16, bf16, q8_0, not q4_0"):
        CpuBackend(1).compile(PROGRAM, replace(CONFIG, kv_type="q4_0"))
    with pytest.raises(ValueError, match="1 numbers for 2 KV groups"):
        CpuBackend(1).compile(PROGRAM, replace(CONFIG, num_pages=(10,)))
    with pytest.raises(BackendError, match="KV cache"):
        CpuBackend(1).compile(rows_program_with_memory(1 << 40), replace(ONE_GROUP, num_pages=(1 << 20,)))


def rows_program_with_memory(head_dim: int) -> Program:
    """A program whose KV memory no machine has."""
    program, _ = linear()
    return replace(program, kv=replace(program.kv, head_dim=min(head_dim, 2**31 - 1), v_head_dim=2**31 - 1))


def test_a_layer_has_one_rope() -> None:
    rng = np.random.default_rng(0)
    ops = Ops(KVShape(1, 4, 4, PROGRAM.kv.groups[:1]), 1)
    x = ops.embed(random_weight(rng, "table", 8, 4))
    for freq in (1.0, 0.5):
        x = ops.rope_and_store(x, x, x, layer=0, rope=Rope(RopeLayout.HALF, (freq,)))
    with pytest.raises(BackendError, match="two different rotary"):
        CpuBackend(1).compile(ops.finish(ops.take_rows(x)), ONE_GROUP)


def test_sizes_that_do_not_fit_are_refused() -> None:
    """A damaged file must not make the kernels read past a weight."""
    program, matrix = linear()
    short = ArrayTensor("matrix", matrix.tensor.numpy())
    object.__setattr__(short, "raw", lambda: matrix.tensor.raw()[:2])
    op = replace(program.instructions[1], weights=(Weight(short),))
    with pytest.raises(BackendError, match="256 bytes for 3 rows of 128"):
        CpuBackend(1).compile(
            replace(program, instructions=(program.instructions[0], op, program.instructions[2])), ONE_GROUP
        )


def test_an_unknown_path_or_thread_count_is_refused() -> None:
    with pytest.raises(BackendError, match=r"'sse9'; choose one of .*scalar"):
        CpuBackend(path="sse9")
    with pytest.raises(BackendError, match="threads is 0"):
        CpuBackend(threads=0)
    with pytest.raises(ValueError, match="threads is 2000"):
        CpuBackend(1).compile(linear()[0], ONE_GROUP).set_threads(2000)


def test_progress_ends_with_all_bytes() -> None:
    seen: list[tuple[int, int]] = []
    CpuBackend(1).compile(PROGRAM, CONFIG, lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 0


def run_once(executable: CpuExecutable, config: KVConfig = CONFIG) -> np.ndarray:
    return Driver(executable, config).step({"a": Chunk.every(range(20)), "b": Chunk.every([1, 2])})["a"]


def held_matrix(data: F32Array) -> CpuExecutable:
    def build(ops: Ops, x: Value) -> Value:
        return ops.linear(x, Weight(ArrayTensor("matrix", data)))

    return CpuBackend(1).compile(rows_program(build, linear()[1]), ONE_GROUP)


def test_weights_are_held_and_not_copied() -> None:
    data = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    executable = held_matrix(data)
    step = Driver(executable, ONE_GROUP).pack({"s": Chunk.every([0])})
    before = executable.run(step).copy()
    data *= 2
    np.testing.assert_array_equal(executable.run(step), 2 * before)
    gone = weakref.ref(data)
    del data
    gc.collect()
    assert gone() is not None
    executable.run(step)
    del executable
    gc.collect()
    assert gone() is None


def test_logits_outlive_growing_buffers_and_the_executable() -> None:
    driver = Driver(CpuBackend(2).compile(PROGRAM, CONFIG), CONFIG)
    logits = driver.executable.run(driver.pack({"a": Chunk.last([1])}))
    copy = logits.copy()
    driver.executable.run(driver.pack({"b": Chunk.every([2] * 100)}))
    del driver
    gc.collect()
    assert logits.shape == copy.shape
    assert np.isfinite(logits).all()


def test_threads_change_between_steps() -> None:
    executable = CpuBackend(1).compile(PROGRAM, CONFIG)
    want = run_once(executable)
    for threads in (4, 1, 3, 2):
        executable.set_threads(threads)
        np.testing.assert_array_equal(run_once(executable), want)


def test_a_second_step_at_the_same_time_is_refused() -> None:
    """The GIL is not held during a step, so another thread can try."""
    rng = np.random.default_rng(0)
    square = random_weight(rng, "square", 512, 512, scale=0.04)

    def chain(ops: Ops, x: Value) -> Value:
        for _ in range(20):
            x = ops.linear(x, square)
        return x

    executable = CpuBackend(1).compile(rows_program(chain, square), KVConfig(16, (60,), "f16"))
    step = Driver(executable, KVConfig(16, (60,), "f16")).pack({"s": Chunk.every(range(400))})
    refused, refusals = threading.Event(), list[str]()

    def intrude() -> None:
        while not refused.is_set():
            try:
                executable.run(step)
            except RuntimeError as error:
                refusals.append(str(error))
                refused.set()

    threads = [threading.Thread(target=intrude) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert "one step at a time" in refusals[0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_its_own_team() -> None:
    executable = CpuBackend(2).compile(PROGRAM, CONFIG)
    want = run_once(executable)
    child = os.fork()
    if child == 0:
        same = np.array_equal(run_once(executable), want)
        del executable
        gc.collect()
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(run_once(executable), want)


def test_tokens_of_another_integer_type_are_taken() -> None:
    driver = Driver(CpuBackend(1).compile(PROGRAM, CONFIG), CONFIG)
    step = driver.pack({"s": Chunk.every([1, VOCAB - 1])})
    want = driver.executable.run(step).copy()
    np.testing.assert_array_equal(driver.executable.run(replace(step, tokens=step.tokens.astype(np.int64))), want)
    with pytest.raises(ValueError, match="where a vector is needed"):
        driver.executable.run(replace(step, tokens=step.tokens.reshape(1, -1)))


def test_threads_default_to_the_physical_cores(tmp_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    none, pair = tmp_path / "none", tmp_path / "pair"
    assert usable_cores(none, none) == len(allowed)
    for cpu in allowed:
        (pair / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (pair / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}\n")
    assert usable_cores(pair, none) == len({cpu // 2 for cpu in allowed})
    limit = tmp_path / "cpu.max"
    limit.write_text("150000 100000\n")
    assert usable_cores(none, limit) == usable_cpus(limit) == min(2, len(allowed))
    limit.write_text("max 100000\n")
    assert usable_cores(none, limit) == len(allowed)
    limit.write_text("1000 100000\n")
    assert usable_cores(none, limit) == usable_cpus(limit) == 1
    assert usable_cpus(none) == len(allowed)
