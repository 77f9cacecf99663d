"""Hidden states beside the logits: the rows that want no logits take part in nothing after the final norm, and nobody's
bits depend on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from plait.errors import BackendError
from plait.models.registry import load_model
from plait.ops.api import Backend, Executable, KVConfig, Program, StepInputs
from plait.ops.cpu import CpuBackend
from plait.ops.program import hidden_of
from plait.ops.reference import ReferenceBackend
from support.programs import VOCAB, everything, rows_program
from support.steps import Chunk, Driver, i32
from support.tensors import MemorySource, in_k_formats, quantised, random_weight
from support.tiny_llama import TinyLlama

TINY = TinyLlama(d_model=64, ff=96, head_dim=16, vocab=48, n_layers=2, context=512)
K_SIZED = TinyLlama(d_model=256, ff=512, head_dim=32, n_heads=8, vocab=48, n_layers=1, context=512)
SOURCES: dict[str, MemorySource] = {
    "f32": TINY.source("safetensors"),
    "Q8_0": quantised(TINY.source("gguf"), "Q8_0"),
    "Q4_K_M": in_k_formats(K_SIZED.source("gguf"), np.random.default_rng(5)),
}
BACKENDS: tuple[Backend, ...] = (ReferenceBackend(), *(CpuBackend(2, path) for path in CpuBackend.paths()))
PROGRAMS: dict[str, Callable[[], Program]] = {
    "everything": everything,
    **{name: lambda source=source: load_model(source).program for name, source in SOURCES.items()},  # type: ignore[misc]
}


def a_step(driver: Driver, rows: int) -> StepInputs:
    tokens = np.random.default_rng(rows).integers(0, VOCAB, rows).tolist()
    return driver.pack({"a": Chunk.every(tokens[: rows // 2]), "b": Chunk.every(tokens[rows // 2 :])})


def run(executable: Executable, step: StepInputs) -> tuple[np.ndarray, np.ndarray]:
    logits = np.array(executable.run(step))
    return logits, np.array(executable.hidden())


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("rows", [1, 5, 23, 61])
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_rows_without_logits_change_no_bit_of_the_others(backend: Backend, name: str, rows: int) -> None:
    program = PROGRAMS[name]()
    config = KVConfig(16, (20,) * len(program.kv.groups), "f32")
    executable = backend.compile(program, config)
    step = a_step(Driver(executable, config), rows)
    logits, hidden = run(executable, step)
    assert logits.shape == (rows, program.logits.width)
    assert hidden.shape == (rows, hidden_of(program).width)  # type: ignore[union-attr]
    for only in {1, rows // 3, rows - 1, rows}:
        fewer, same = run(executable, replace(step, hidden_only=only))
        assert fewer.tobytes() == logits[: rows - only].tobytes()
        assert same.tobytes() == hidden.tobytes()


@pytest.mark.parametrize("path", CpuBackend.paths())
def test_the_cpu_has_the_hidden_states_of_the_reference(path: str) -> None:
    config = KVConfig(4, (60, 60), "f32")
    backends = (CpuBackend(2, path), ReferenceBackend(np.float32, np.float64))
    ours, theirs = (backend.compile(everything(), config) for backend in backends)
    step = a_step(Driver(ours, config), 21)
    got, want = run(ours, step)[1], run(theirs, step)[1]
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("backend", [CpuBackend(1), ReferenceBackend()], ids=["cpu", "reference"])
def test_a_step_that_asks_for_more_than_its_rows_is_refused(backend: Backend) -> None:
    config = KVConfig(4, (60, 60), "f32")
    executable = backend.compile(everything(), config)
    step = a_step(Driver(executable, config), 4)
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match="hidden_only"):
            executable.run(replace(step, hidden_only=wrong))


@pytest.mark.parametrize("backend", [CpuBackend(1), ReferenceBackend()], ids=["cpu", "reference"])
def test_logits_that_are_no_product_have_no_hidden_states(backend: Backend) -> None:
    table = random_weight(np.random.default_rng(1), "table", VOCAB, 8)
    executable = backend.compile(rows_program(lambda ops, x: ops.scale(x, 2.0), table), KVConfig(4, (4,), "f32"))
    driver = Driver(executable, KVConfig(4, (4,), "f32"))
    executable.run(driver.pack({"a": Chunk.every([1, 2])}))
    with pytest.raises(BackendError, match="no hidden states"):
        executable.hidden()


def test_a_step_without_rows_has_none() -> None:
    config = KVConfig(4, (60, 60), "f32")
    for backend in (CpuBackend(1), ReferenceBackend()):
        executable = backend.compile(everything(), config)
        driver = Driver(executable, config)
        executable.run(a_step(driver, 6))
        step = driver.pack({"a": Chunk([3])})
        assert i32(step.out_rows).size == 0
        executable.run(step)
        assert executable.hidden().shape == (0, 24)
