"""The kernels' executable against the reference backend: every instruction, random schedules, edits, drawn tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from test_cuda_programs import CONFIG, PROGRAM, VOCAB, everything, random_tokens, reference_driver

from plait.ops.api import Instruction, KVConfig, Program, Reposition
from plait.ops.cuda import open_cuda
from plait.ops.sampling import SampleRow
from plait.types import SamplingParams
from support.kv import CONFIG as KV_CONFIG
from support.kv import attention_layers, check_a_row_stored_twice, run_edited
from support.steps import Chunk, Driver
from support.triton_interpreter import DEVICE

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("one_torch_thread")]


def kernel_driver(program: Program = PROGRAM, config: KVConfig = CONFIG, seed: int = 3, dtype: str = "f32") -> Driver:
    executable = open_cuda(DEVICE, dtype, kernels=True).compile(program, config)
    return Driver(executable, config, np.random.default_rng(seed))


def assert_same(ours: Driver, theirs: Driver, chunks: dict[str, Chunk], tolerance: float = 5e-5) -> None:
    got, want = ours.step(chunks), theirs.step(chunks)
    for name in chunks:
        np.testing.assert_allclose(got[name], want[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("seed", range(2))
def test_random_schedules_agree(seed: int) -> None:
    """Prompts in chunks beside decoding sequences, sequences that join late, rows without logits."""
    rng = np.random.default_rng(seed)
    ours, theirs = kernel_driver(seed=seed), reference_driver(seed=seed)
    for _ in range(4):
        chunks = {}
        for name in [name for name in "abcd" if rng.random() < 0.7] or ["a"]:
            n = int(rng.choice([1, 1, 2, 9]))
            outputs = sorted(rng.choice(n, int(rng.integers(0, n + 1)), replace=False).tolist())
            chunks[name] = Chunk(rng.integers(0, VOCAB, n).tolist(), outputs)
        assert_same(ours, theirs, chunks)
    ours.executable.use_graphs = True  # type: ignore[attr-defined] # room for more rows than there are
    for token in range(2):
        assert_same(ours, theirs, {name: Chunk.every([token]) for name in ours.sequences})


def test_a_prompt_longer_than_a_tile() -> None:
    chunks = {"a": Chunk.every(random_tokens(70, 1)), "b": Chunk.every([4]), "c": Chunk.every([5])}
    assert_same(kernel_driver(), reference_driver(), chunks)


def launch_rows(names: str, position: int, **params: object) -> list[SampleRow]:
    return [SampleRow(SamplingParams(seed=i, **params), i, position, [1, 2, 3]) for i, _ in enumerate(names)]  # type: ignore[arg-type]


def test_tokens_stay_on_the_device_between_steps() -> None:
    """Steps launched one after the other, each from the tokens of the one before, draw what the host draws."""
    ours, theirs = kernel_driver(), kernel_driver()
    executable, host = ours.executable, theirs.executable
    prompts = {"a": Chunk.last([5, 6, 7]), "b": Chunk.last([1]), "c": Chunk.last([2, 9])}
    pendings, tokens = [], []
    for position in range(3):
        chunks = prompts if position == 0 else {name: Chunk.every([0]) for name in "abc"}
        rows = launch_rows("abc", position, temperature=1.5, repeat_penalty=1.2)
        step = ours.pack(chunks)
        step = step if position == 0 else replace(step, tokens=np.array([-1, -2, -3], np.int32))
        assert executable.launches(rows)  # type: ignore[attr-defined]
        pendings.append(executable.launch(step, [0, 1, 2], rows))  # type: ignore[attr-defined]
        known = {n: Chunk.every([t]) for n, t in zip("abc", tokens[-1], strict=True)} if tokens else prompts
        logits = host.run(theirs.pack(known))
        tokens.append([drawn.token for drawn in host.sample(logits, [0, 1, 2], rows)])
    assert [[drawn.token for drawn in pending.result()] for pending in pendings] == tokens
    assert len(set(map(tuple, tokens))) > 1


def test_a_row_that_is_not_finite_fails_alone() -> None:
    program = everything()
    table = next(op for op in program.instructions if type(op).__name__ == "Embed").table.tensor.numpy()
    table[0] = np.nan
    driver = kernel_driver(program)
    step = driver.pack({"bad": Chunk.every([0]), "good": Chunk.every([3])})
    pending = driver.executable.launch(step, [0, 1], launch_rows("ab", 1, temperature=0.0))  # type: ignore[attr-defined]
    bad, good = pending.result()
    assert "30 of 30 are NaN" in str(bad.error)
    assert good.error is None
    assert 0 <= good.token < VOCAB


def test_a_step_without_memory_frees_what_graphs_hold_and_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = kernel_driver(), reference_driver()
    executable = ours.executable
    executable.use_graphs = True  # type: ignore[attr-defined]
    assert_same(ours, theirs, {"a": Chunk.every([1])})
    assert len(executable.graphs) == 1  # type: ignore[attr-defined]

    def fail(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr(executable.graphs, "of", fail)  # type: ignore[attr-defined]
    assert_same(ours, theirs, {"a": Chunk.every([2]), "b": Chunk.every([3])})
    assert len(executable.graphs) == 0  # type: ignore[attr-defined]


def test_a_value_is_held_until_it_is_read_for_the_last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step holds about a layer's values, not those of all instructions."""
    from plait.ops.cuda import kernel_run

    execute, held = kernel_run._Run.execute, []

    def watched(run: kernel_run._Run, op: Instruction) -> None:
        execute(run, op)
        held.append(len(run.values))

    monkeypatch.setattr(kernel_run._Run, "execute", watched)
    assert_same(kernel_driver(), reference_driver(), {"a": Chunk.every([1, 2])})
    assert len(held) == len(PROGRAM.instructions)
    assert max(held) == 5  # q, k and v, what they are made from, and the residual
    assert held[-1] <= 2


def test_edits() -> None:
    """After a shift, keys are masked by position; a sequence with a hole goes slot by slot."""
    program = attention_layers()
    ours, theirs = kernel_driver(program, KV_CONFIG), reference_driver(program, KV_CONFIG)
    results = []
    for driver in (ours, theirs):
        driver.step({"s": Chunk([3, 1, 4, 1, 5, 9])})
        edits = [
            {"repositions": [Reposition(int(slot), i + 15) for i, slot in enumerate(driver.slots("s", g))]}
            for g in (0, 1)
        ]
        edits[0]["entries"] = np.array([(p, f, n) for p, f, n in driver.table("s", 0)[:-1]] + [
            (driver.table("s", 0)[-1][0], 1, 2)], np.int32)  # fmt: skip
        results.append(run_edited(driver, *edits, shift=15))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-4)
    check_a_row_stored_twice(kernel_driver(program, KV_CONFIG))
