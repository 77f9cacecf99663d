"""Compiles what a warm-up will need side by side, so that it finds its kernels in Triton's cache, and need not wait for
one after the other.

Knows Triton's hooks and the processes that compile; knows no kernel and no model.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
import triton

from plait.ops.cores import usable_cpus
from plait.ops.cuda.compile_worker import Job, Order, is_compiled
from plait.ops.cuda.kernels.runtime import interpreted, rehearsing

_log = logging.getLogger("plait")
SIDE_BY_SIDE = True
"""Off: every kernel is compiled where it is first launched."""
LEAST_JOBS = 2
_one_rehearsal = threading.Lock()
"""Held while Triton's hook is changed: it is the process's, and two engines may start at a time."""
MOST_AT_ONCE = 16
"""There are some 25 kernels, of which a few take half of the time; and a container may have a share of a large host."""
MOST_SECONDS = 300
_WORKER = "import sys; sys.path[:] = sys.argv[1:]; from plait.ops.cuda.compile_worker import main; main()"


def compile_together(work: Callable[[], object], device: torch.device) -> None:
    """Fills Triton's cache with what `work` would compile for the current device, `device`. Nothing is launched:
    tensors may be on "meta". Whatever goes wrong costs only time: kernels that are missing are compiled when needed."""
    if not SIDE_BY_SIDE or device.type != "cuda" or interpreted():
        return
    start = time.perf_counter()
    try:
        jobs = [job for job in rehearse(work) if not is_compiled(job)]
        if len(jobs) < LEAST_JOBS:
            return
        failed = compile_jobs(jobs)
    except Exception as error:
        _log.warning("kernels are compiled one after another: %s: %s", type(error).__name__, error)
        return
    if failed:
        _log.warning(
            "%d of %d kernels could not be compiled beforehand; the first, %s", len(failed), len(jobs), failed[0]
        )
    _log.info("%d kernels compiled side by side in %.1f s", len(jobs), time.perf_counter() - start)


def rehearse(work: Callable[[], object]) -> list[Job]:
    """What `work` would compile that this process has not compiled yet, in the order of its launches. Launches of this
    thread do nothing meanwhile; those of others are as ever."""
    runtime = triton.knobs.runtime
    found: dict[str, Job] = {}
    before: Callable[..., Any] | None = None

    def note(**told: Any) -> bool:
        if not rehearsing.get():
            return bool(before(**told)) if before else False
        distinct = told["compile"]["specialization_data"]
        if distinct not in found:
            found[distinct] = _job(told["fn"], told["compile"])
        return True  # to Triton: do not compile

    with _one_rehearsal:
        before, runtime.jit_cache_hook = runtime.jit_cache_hook, note
        token = rehearsing.set(True)
        try:
            work()
        finally:
            runtime.jit_cache_hook = before
            rehearsing.reset(token)
    return list(found.values())


def _job(kernel: Any, asked: dict[str, Any]) -> Job:
    options = json.loads(asked["specialization_data"])["options"]
    target = triton.runtime.driver.active.get_current_target()
    return Job(
        kernel.module,
        kernel.name,
        asked["signature"],
        asked["constants"],
        asked["configs"][0],
        {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()},
        (target.backend, target.arch, target.warp_size),
    )


def compile_jobs(jobs: list[Job]) -> list[str]:
    """Compiles all of them in a process that starts others; returns what failed. Raises OSError where no process can be
    had. Nothing of it is left when this ends, however it does."""
    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "errors"), "w+b") as errors:
        # Not by `multiprocessing`, which would run the caller's main module again. In a session, to be ended whole.
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _WORKER, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors, start_new_session=True,
        )  # fmt: skip
        bound = threading.Timer(MOST_SECONDS, _kill, [process])
        try:
            bound.start()
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):  # it has ended already, and its errors say why
                at_once = min(len(jobs), usable_cpus(), MOST_AT_ONCE)
                process.stdin.write(pickle.dumps(Order(tuple(jobs), at_once, folder)))
                process.stdin.flush()
            failed = [": ".join(json.loads(line)) for line in process.stdout]
            if process.wait():
                errors.seek(0)
                last = (errors.read().decode(errors="replace").strip().splitlines() or [""])[-1]
                failed.append(f"the process that compiles ended with {process.returncode} {last}")
            return failed
        finally:
            bound.cancel()
            _end(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills the process's group: what it started may outlive it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill(process)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()
