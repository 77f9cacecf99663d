"""The processes of serving.py: its servers, each until the block ends, and its clients."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def play(job: dict[str, Any]) -> dict[str, Any]:
    """What serving_clients.py saw of a job, in a process of its own."""
    command = [sys.executable, str(HERE / "serving_clients.py"), json.dumps(job)]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


@contextmanager
def fake_server() -> Iterator[tuple[int, Callable[[], float]]]:
    """(port, a function that asks for the CPU seconds so far) of serving_fake.py."""
    with _process([sys.executable, str(HERE / "serving_fake.py")]) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def cpu_seconds() -> float:
            process.stdin.write("\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        yield int(process.stdout.readline()), cpu_seconds


@contextmanager
def llama_server(python: str, setting: dict[str, Any]) -> Iterator[int]:
    """The port of llama-server."""
    command = [python, str(HERE / "peer_llama_server.py"), json.dumps(setting)]
    with _process(command, stderr=subprocess.DEVNULL) as process:
        yield _port(process.stdout, r"^address .*:(\d+)")


@contextmanager
def plait_server(model: str | None) -> Iterator[int]:
    """The port of `plait serve`."""
    command = [sys.executable, "-m", "plait", "serve", "--port", "0", *(["-m", model] if model else [])]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield _port(process.stderr, r" at http://\S+:(\d+)$")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@contextmanager
def _process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Ends when its input does."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.communicate(timeout=60)


def _port(lines: Any, pattern: str) -> int:
    for line in lines:
        if match := re.search(pattern, line.rstrip()):
            return int(match[1])
    raise SystemExit("a server ended before it was ready; start it by hand to see why")
