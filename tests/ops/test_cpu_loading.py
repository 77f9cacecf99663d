"""Loading on the CPU: what it reports, that it can be interrupted, which CPUs its threads run on, and its memory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plait.errors import BackendError
from plait.formats.hub import resolve_model
from plait.formats.open import open_model
from plait.formats.quant import quantize
from plait.models.registry import load_model
from plait.ops.api import KVConfig, Program, Weight
from plait.ops.cores import by_core, usable_cores
from plait.ops.cpu import CpuBackend, CpuExecutable
from plait.ops.cpu.plan import plan_weights
from plait.ops.cpu.record import new_program, record
from plait.ops.program import program_weights
from support.programs import everything, rows_program
from support.steps import Chunk, Driver
from support.tensors import random_weight

CONFIG, ONE_GROUP = KVConfig(4, (60, 60), "f16"), KVConfig(4, (60,), "f16")
ALLOWED = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
needs_affinity = pytest.mark.skipif(not ALLOWED, reason="this system has no affinity")


def run_once(executable: CpuExecutable, config: KVConfig = CONFIG) -> np.ndarray:
    return Driver(executable, config).step({"s": Chunk.every([1, 2, 3])})["s"]


# --- progress -----------------------------------------------------------------------------------------------------


def tied() -> tuple[Program, Weight, Weight]:
    rng = np.random.default_rng(0)
    table, square = random_weight(rng, "table", 8, 32), random_weight(rng, "square", 32, 32)
    return rows_program(lambda ops, x: ops.linear(ops.linear(x, square), table), table), table, square


def test_progress_counts_every_weight_once_when_it_is_done() -> None:
    program, table, square = tied()
    seen: list[tuple[int, int]] = []
    CpuBackend(1).compile(program, ONE_GROUP, lambda done, total: seen.append((done, total)))
    total = table.tensor.nbytes + square.tensor.nbytes
    assert seen == [(square.tensor.nbytes, total), (total, total)], "the tied table is done with the last instruction"


def test_progress_ends_at_the_whole() -> None:
    program = everything()
    seen: list[tuple[int, int]] = []
    CpuBackend(1).compile(program, CONFIG, lambda done, total: seen.append((done, total)))
    total = sum(weight.tensor.nbytes for weight in program_weights(program))
    assert seen[-1] == (total, total)
    assert sorted(seen) == seen
    assert len({done for done, _ in seen}) == len(seen) > 5


def test_ctrl_c_between_tensors_ends_the_loading() -> None:
    program, _, _ = tied()
    seen: list[int] = []

    def interrupt(done: int, total: int) -> None:
        seen.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CpuBackend(2).compile(program, ONE_GROUP, interrupt)
    assert len(seen) == 1
    run_once(CpuBackend(2).compile(program, ONE_GROUP), ONE_GROUP)


# --- CPUs ---------------------------------------------------------------------------------------------------------


def affinities() -> dict[int, set[int]]:
    """The CPUs of each thread of this process; a thread that ends while they are read is left out."""
    found = {}
    for task in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(ProcessLookupError):
            found[task] = os.sched_getaffinity(task)
    return found


def workers_of(make: Callable[[], CpuExecutable]) -> tuple[list[set[int]], CpuExecutable]:
    """The CPUs of the threads that running this executable started, by their number."""
    before = set(affinities())
    executable = make()
    run_once(executable)
    time.sleep(0.05)
    return [cpus for task, cpus in sorted(affinities().items()) if task not in before], executable


@needs_affinity
def test_without_a_wish_threads_run_anywhere() -> None:
    found, _ = workers_of(lambda: CpuBackend(3).compile(everything(), CONFIG))
    assert found == [set(ALLOWED)] * 2


@needs_affinity
def test_threads_stay_on_the_named_cpus_and_the_caller_is_given_back_its_own() -> None:
    found, _ = workers_of(lambda: CpuBackend(3, cpus=ALLOWED[:1]).compile(everything(), CONFIG))
    assert found == [{ALLOWED[0]}] * 2
    assert os.sched_getaffinity(0) == set(ALLOWED)


@needs_affinity
def test_strict_gives_each_thread_a_cpu_of_its_own() -> None:
    order = by_core(ALLOWED)
    found, executable = workers_of(lambda: CpuBackend(len(ALLOWED), strict=True).compile(everything(), CONFIG))
    assert found == [{cpu} for cpu in order[1:]]
    assert os.sched_getaffinity(0) == set(ALLOWED)
    with pytest.raises(ValueError, match="cannot have one each"):
        executable.set_threads(len(ALLOWED) + 1)


@needs_affinity
def test_bound_threads_give_the_same_bits() -> None:
    want = run_once(CpuBackend(1).compile(everything(), CONFIG))
    for cpus, strict in ((ALLOWED[-1:], False), (ALLOWED[-1:], True), ((), True)):
        backend = CpuBackend(1, cpus=cpus, strict=strict)
        np.testing.assert_array_equal(run_once(backend.compile(everything(), CONFIG)), want)


@needs_affinity
def test_cpus_that_cannot_be_had_are_refused_by_name() -> None:
    other = next(cpu for cpu in range(4096) if cpu not in ALLOWED)
    with pytest.raises(BackendError, match=rf"may not use CPU {other}; it may use {ALLOWED[0]}"):
        CpuBackend(1, cpus=[*ALLOWED, other])
    with pytest.raises(BackendError, match="5 threads cannot have one each of 1 CPUs"):
        CpuBackend(5, cpus=ALLOWED[:1], strict=True)


@needs_affinity
def test_threads_default_to_the_cores_of_the_named_cpus(tmp_path: Path) -> None:
    assert CpuBackend(cpus=ALLOWED[:1]).threads == 1
    for cpu in range(4):
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    assert usable_cores(tmp_path, tmp_path / "none", within=[0, 2, 3]) == 2
    assert by_core([0, 2, 3, 1], tmp_path) == [0, 3, 2, 1], "one of each core, then the others"


# --- what would be done -------------------------------------------------------------------------------------------


def test_the_plan_is_what_loading_does() -> None:
    model = load_model(open_model(resolve_model(None)))
    plan = plan_weights(model.program)
    native = new_program(model.program, ONE_GROUP, CpuBackend.paths()[0], 1)
    matrices = record(model.program, native)
    assert {name: native.kernel_of(i) for name, i in matrices.items()} == plan.kernels
    assert plan.kernels["blk.0.ffn_up.weight"] == "int8, repacked"
    assert (
        plan.repacked_bytes
        == native.packed_total
        > 0.99 * sum(weight.tensor.nbytes for weight in program_weights(model.program) if weight.name in matrices)
    )
    assert plan.mapped_bytes == 0


def test_a_plan_of_floats_keeps_them_in_the_file() -> None:
    program, table, square = tied()
    plan = plan_weights(program)
    assert (plan.repacked_bytes, plan.mapped_bytes) == (0, table.tensor.nbytes + square.tensor.nbytes)
    assert set(plan.kernels) == {"table", "square"}


def test_a_plan_cannot_be_run() -> None:
    program, _, _ = tied()
    native = new_program(program, ONE_GROUP, "scalar", 1)
    native.plan_only()
    record(program, native)
    with pytest.raises(ValueError, match="not finished"):
        run_once(CpuExecutable(native), ONE_GROUP)


# --- memory -------------------------------------------------------------------------------------------------------

LOAD = """
import json, resource, sys
from pathlib import Path
import plait.cli.run, plait.api.llm
from plait.formats.open import open_model
from plait.models.registry import load_model
from plait.ops.api import KVConfig
from plait.ops.cpu import CpuBackend

def kib(file, name):
    return next(int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(name + ":"))

anonymous = [kib("/proc/self/smaps_rollup", "Anonymous")]
before = kib("/proc/self/status", "VmHWM")
see = lambda done, total: anonymous.append(kib("/proc/self/smaps_rollup", "Anonymous"))
executable = CpuBackend(2).compile(load_model(open_model(sys.argv[1])).program, KVConfig(16, (8,)), see)
print(json.dumps({"peak": kib("/proc/self/status", "VmHWM") - before, "anonymous": max(anonymous) - anonymous[0]}))
"""


def load(model: Path) -> dict[str, float]:
    """What loading adds to a fresh process, as parts of the file's size: peak resident memory, mapped pages of the file
    included, and anonymous memory."""
    done = subprocess.run([sys.executable, "-c", LOAD, model], capture_output=True, text=True, check=True)
    size = model.stat().st_size / 1024
    return {name: kib / size for name, kib in json.loads(done.stdout).items()}


def write_llama(path: Path, vocab: int, layers: int, kinds: tuple[str, str]) -> None:
    """A Llama 1024 wide with tied embeddings, of `kinds`: the embedding's, and that of the other matrices. One row's
    blocks are repeated: this is about memory."""
    from gguf import GGMLQuantizationType, GGUFWriter

    width, ff, kv = 1024, 4096, 256
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(16)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    matrices = {"token_embd": (vocab, width, kinds[0])}
    for i in range(layers):
        for name, rows, columns in (
            ("attn_q", width, width), ("attn_k", kv, width), ("attn_v", kv, width), ("attn_output", width, width),
            ("ffn_gate", ff, width), ("ffn_up", ff, width), ("ffn_down", width, ff),
        ):  # fmt: skip
            matrices[f"blk.{i}.{name}"] = (rows, columns, kinds[1])
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{name}.weight", np.ones(width, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for name, (rows, columns, kind) in matrices.items():
        row = quantize(np.random.default_rng(0).normal(0, 0.1, (1, columns)).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", np.repeat(row, rows, axis=0), raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


needs_proc = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads Linux's figures")


@needs_proc
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_loading_takes_little_more_memory_than_the_file(tmp_path: Path, kind: str) -> None:
    """A file of 60 MB (30 in the embedding, which is looked up and multiplied with), so that what does not grow with it
    shows: 16 MiB of the file mapped, 2 MiB of a huge page, a team's stacks."""
    vocab, layers = {"Q4_0": (50000, 4), "Q8_0": (28000, 2)}[kind]
    write_llama(tmp_path / "model.gguf", vocab, layers, (kind, kind))
    size = (tmp_path / "model.gguf").stat().st_size
    assert 50e6 < size < 90e6
    fixed = 24 * 2**20 / size
    found = load(tmp_path / "model.gguf")
    assert found["anonymous"] < 1.15 + fixed
    assert found["peak"] < 1.15 + fixed


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(("kinds", "bound"), [(("Q4_0", "Q4_0"), 1.15), (("Q8_0", "Q8_0"), 1.15)])
def test_loading_a_large_file(tmp_path: Path, kinds: tuple[str, str], bound: float) -> None:
    write_llama(tmp_path / "model.gguf", 120000, 24, kinds)
    assert (tmp_path / "model.gguf").stat().st_size > 200e6
    found = load(tmp_path / "model.gguf")
    assert found["anonymous"] < bound
    assert found["peak"] < bound
