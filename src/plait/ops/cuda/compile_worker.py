"""A process that compiles kernels into Triton's cache, several at a time in processes of their own.

Knows where kernels are found and how Triton is asked for one; never uses a device, and knows nothing of models. What
not every version of Triton has is imported where it is used: a backend without it starts more slowly, but starts.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pickle
import signal
import sys
import tempfile
import threading
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import IO, Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend


@dataclass(frozen=True, slots=True)
class Job:
    """A kernel, by module and name, with all that Triton compiles it for: types, constants, what is known of arguments,
    and options. `target` is the GPU: backend, capability, threads of a warp."""

    module: str
    name: str
    signature: dict[str, Any]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, Any]
    target: tuple[str, int, int]

    def source(self) -> Any:
        kernel = getattr(importlib.import_module(self.module), self.name).kernel
        return ASTSource(kernel, self.signature, self.constants, self.attributes)


@dataclass(frozen=True, slots=True)
class Order:
    """What a process is asked for: jobs, how many at a time, and a folder for what compilers leave lying about."""

    jobs: tuple[Job, ...]
    at_once: int
    folder: str


def is_compiled(job: Job) -> bool:
    """Whether Triton's cache has it. Raises ImportError where this Triton does not tell."""
    from triton._C.libtriton import get_cache_invalidating_env_vars
    from triton.runtime.cache import get_cache_key, get_cache_manager

    source, backend = job.source(), make_backend(GPUTarget(*job.target))
    key = get_cache_key(source, backend, backend.parse_options(job.options), get_cache_invalidating_env_vars())
    folder = get_cache_manager(hashlib.sha256(key.encode()).hexdigest())
    return folder.get_group(f"{source.name[:150]}.json") is not None


def compile_job(job: Job) -> None:
    """Compiles the kernel, and the function in C that launches it, which Triton keeps in the same cache."""
    compiled = triton.compile(job.source(), target=GPUTarget(*job.target), options=job.options)
    if job.target[0] == "cuda" and _has_driver():
        from triton.backends.nvidia.driver import CudaLauncher

        CudaLauncher(compiled.src, compiled.metadata)


def _has_driver() -> bool:
    """Whether there is a library of the driver to link with."""
    from triton.backends.nvidia.driver import library_dirs

    try:
        return bool(library_dirs())
    except AssertionError:
        return False


def main() -> None:
    """An order from standard input; to standard output a line of JSON for each job that failed. Whoever closes the
    input ends this process and all that it started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # compilers print
    order: Order = pickle.load(sys.stdin.buffer)
    tempfile.tempdir = order.folder
    for module in {job.module for job in order.jobs}:
        importlib.import_module(module)
    with ProcessPoolExecutor(order.at_once, get_context("fork")) as pool:
        waiting = {pool.submit(compile_job, job): job for job in order.jobs}
        threading.Thread(target=_end_with_input, daemon=True).start()
        _answer(waiting, answers)


def _answer(waiting: dict[Future[None], Job], answers: IO[str]) -> None:
    for future in as_completed(waiting):
        error = future.exception()
        if error is not None:
            answers.write(json.dumps([waiting[future].name, f"{type(error).__name__}: {error}"]) + "\n")
            answers.flush()


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)
