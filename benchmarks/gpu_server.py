"""`plait serve` on the GPU with random weights, for as long as a block runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Started:
    """A server that is ready, how many seconds after its command, and the lines of its log until then."""

    port: int
    seconds: float
    process: subprocess.Popen[str]
    lines: tuple[str, ...]


@contextmanager
def gpu_server(model: Path, *arguments: str, kernel_cache: Path | None = None) -> Iterator[Started]:
    """`kernel_cache` is Triton's folder of compiled kernels, empty for a cold start."""
    command = [sys.executable, "-m", "plait", "serve", "--port", "0", "--device", "cuda", "--load-format", "random",
               "-m", str(model), *arguments]  # fmt: skip
    environ = os.environ | ({"TRITON_CACHE_DIR": str(kernel_cache)} if kernel_cache else {})
    begin = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)
    try:
        port, lines = _ready(process)
        yield Started(port, time.perf_counter() - begin, process, lines)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def _ready(process: subprocess.Popen[str]) -> tuple[int, tuple[str, ...]]:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if match := re.search(r" at http://\S+:(\d+)$", line.rstrip()):
            threading.Thread(target=_pass_on, args=(process,), daemon=True).start()
            return int(match[1]), tuple(lines)
    raise SystemExit("the server ended before it was ready:\n" + "".join(lines))


def _pass_on(process: subprocess.Popen[str]) -> None:
    """The log must be read: else the server would wait for room in the pipe."""
    assert process.stderr is not None
    for line in process.stderr:
        print(f"  server: {line.rstrip()}", flush=True)
