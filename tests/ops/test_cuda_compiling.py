"""Kernels compiled side by side before a warm-up: which ones, and what becomes of them. None of it needs a GPU."""

from __future__ import annotations

import ast
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st

from plait.ops.cuda import compiling
from plait.ops.cuda.compile_worker import Job, Order
from plait.ops.cuda.kernels import runtime
from plait.ops.cuda.staging import ALIGNED, GroupTensors, Layout, decode_capacity, mixed_capacity

FAMILIES = ("qwen3", "gemma3", "gpt2", "smollm3", "command-r-plus", "phi3-longrope")
JOB = Job("plait.ops.cuda.kernels.embed", "_embed", {}, {}, {}, {}, ("cuda", 90, 32))


def rehearsed(cache: Path, *arguments: str) -> Any:
    environ = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-m", "support.rehearsal", *arguments], env=environ, capture_output=True,
                          text=True, cwd=Path(__file__).parents[1])  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parity
def test_one_of_each_kind_launches_what_the_whole_model_does(tmp_path: Path) -> None:
    for name, (whole, few) in rehearsed(tmp_path, "models", *FAMILIES).items():
        assert few == whole, name
        names = {job.split("name='")[1].split("'")[0] for job in few}
        assert {"_draw", "_prefill", "_decode", "shared_partials"} <= names, name
    assert not list(tmp_path.glob("*/*.cubin"))  # nothing was compiled


def test_every_kernel_that_is_launched_can_be_rehearsed() -> None:
    """Others would be launched on tensors that have no memory."""
    launched, can = set(), set()
    for path in Path(runtime.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
                launched.add(ast.unparse(node.func.value))
            elif isinstance(node, ast.FunctionDef):
                can |= {node.name for each in node.decorator_list if ast.unparse(each) == "Launched"}
    assert "_draw" in launched
    assert launched <= can


@given(st.integers(1, 70), st.integers(0, 70), st.integers(1, 3), st.booleans(), st.booleans())
def test_every_part_of_a_step_begins_aligned(rows: int, outputs: int, groups: int, mixed: bool, sharing: bool) -> None:
    capacity = (
        mixed_capacity(rows, outputs, 32, groups, 100, sharing)
        if mixed
        else decode_capacity(rows, groups, 100, sharing)
    )
    layout = Layout(capacity)
    step = layout.tensors(torch.empty(layout.size, dtype=torch.int32, device="meta"), 16)
    parts = [step.tokens, step.positions, step.out_rows, step.table]
    parts += [getattr(group, name) for group in step.groups for name in GroupTensors.__slots__]
    assert not any(part.data_ptr() % ALIGNED for part in parts if part.numel())
    ends = sorted((part.data_ptr(), part.data_ptr() + 4 * part.numel()) for part in parts if part.numel())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))


def test_kernels_are_compiled_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    got = rehearsed(tmp_path, "compile")
    assert got["before"] == [False, False]
    assert got["after"] == [True, True]
    assert len(got["failed"]) == 1
    assert got["failed"][0].startswith("nothing: AttributeError")
    assert {path.name for path in tmp_path.glob("*/*.cubin")} == {"_store_positions.cubin", "_embed.cubin"}


def fail(jobs: list[Job]) -> list[str]:
    raise OSError("no more processes")


def posed(monkeypatch: pytest.MonkeyPatch, jobs: list[Job]) -> None:
    """As on a GPU whose warm-up launches `jobs`."""
    monkeypatch.setattr(compiling, "interpreted", lambda: False)
    monkeypatch.setattr(compiling, "rehearse", lambda work: jobs)
    monkeypatch.setattr(compiling, "is_compiled", lambda job: False)


def test_a_failure_costs_only_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    posed(monkeypatch, [JOB, JOB])
    monkeypatch.setattr(compiling, "compile_jobs", fail)
    compiling.compile_together(lambda: None, torch.device("cuda"))
    assert [record.getMessage() for record in caplog.records] == [
        "kernels are compiled one after another: OSError: no more processes"
    ]


def test_a_worker_that_cannot_start_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_WORKER", "raise SystemExit('no such module')")
    failed = compiling.compile_jobs([JOB])
    assert failed == ["the process that compiles ended with 1 no such module"]


@pytest.mark.parametrize("jobs", [[], [JOB]])
def test_few_kernels_need_no_process(monkeypatch: pytest.MonkeyPatch, jobs: list[Job]) -> None:
    posed(monkeypatch, jobs)
    monkeypatch.setattr(compiling, "compile_jobs", lambda jobs: pytest.fail("a process was started"))
    compiling.compile_together(lambda: None, torch.device("cuda"))


def test_nothing_is_done_without_a_gpu_or_when_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    posed(monkeypatch, [JOB, JOB])
    monkeypatch.setattr(compiling, "rehearse", lambda work: pytest.fail("it rehearsed"))
    compiling.compile_together(lambda: None, torch.device("cpu"))
    monkeypatch.setattr(compiling, "SIDE_BY_SIDE", False)
    compiling.compile_together(lambda: None, torch.device("cuda"))


def test_an_interrupt_leaves_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    note = tmp_path / "pids"
    monkeypatch.setattr(compiling, "_WORKER", (
        f"import os, time; child = os.fork(); open({str(note)!r}, 'a').write(f'{{os.getpid()}} '); time.sleep(600)"
    ))  # fmt: skip
    # The interrupt comes while this waits for answers.
    handler = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            compiling.compile_jobs([JOB])
    finally:
        signal.signal(signal.SIGALRM, handler)
    pids = [int(pid) for pid in note.read_text().split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(map(running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


HANGING = (
    "import sys; sys.path[:] = sys.argv[1:]; from plait.ops.cuda import compile_worker; "
    "from support.processes import hang; compile_worker.compile_job = hang; compile_worker.main()"
)


def test_workers_end_with_who_asked_for_them(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HANGING, *sys.path], stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(Order((JOB, JOB), 2, str(tmp_path))))
    process.stdin.flush()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 100
    while len(pids := children.read_text().split()) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.stdin.close()  # as when the engine is killed
    assert process.wait(60) == -signal.SIGKILL
    while any(running(int(pid)) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
