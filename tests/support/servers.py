"""Starts `plait serve` as a process, as a user would, and stops it again."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READY_S = 60.0


@dataclass
class RunningServer:
    """A server that was ready. `log` grows while it runs."""

    url: str
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        return self.send("GET", path, None, headers)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], Any]:
        """Status, headers and decoded body; `body` is sent as JSON, or as it is if it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, found, raw = self.send("POST", path, data, headers)
        return status, found, json.loads(raw)

    def events(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The events of a stream, but for its [DONE]."""
        raw = self.send("POST", path, json.dumps({**body, "stream": True}).encode())[2].decode()
        lines = [line.removeprefix("data: ") for line in raw.split("\n\n") if line]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    def send(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        given = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/status.json")[2])
        return found

    def pages(self) -> dict[str, float]:
        """Pages of KV memory by state."""
        found: dict[str, float] = self.status()["metrics"]["plait_kv_pages"]
        return found

    def wait_idle(self, seconds: float = 20.0) -> None:
        """Until the engine has nothing left to do."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.status()
            if not status["running"] and not status["metrics"].get("plait_kv_pages", {}).get("used"):
                return
            time.sleep(0.05)
        raise AssertionError(f"still busy: {self.status()['running']}, {self.pages()}")

    def engine(self) -> int | None:
        """The engine's process id."""
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            children = (task / "children").read_text().split()
            if children:
                return int(children[0])
        return None


@contextmanager
def start_server(
    *args: str, environ: dict[str, str] | None = None, status: int = 0, port: int = 0
) -> Iterator[RunningServer]:
    """`plait serve` until the block ends; then SIGTERM, and this exit status. On a free port, once it is ready; with a
    `port`, from the very beginning."""
    program = "from plait.cli.main import entry; entry()"
    command = [sys.executable, "-c", program, "serve", "--port", str(port), *args]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)
    running = RunningServer(f"http://127.0.0.1:{port}" if port else "", process)
    reader = threading.Thread(target=_read, args=(running,), daemon=True)
    reader.start()
    try:
        end = time.monotonic() + READY_S
        while not running.url:
            assert process.poll() is None, f"no server: {running.log}"
            assert time.monotonic() < end, f"no server in time: {running.log}"
            time.sleep(0.01)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            found = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        reader.join(5)
        assert process.stderr is not None
        process.stderr.close()
    assert found == status, running.log


def _read(running: RunningServer) -> None:
    assert running.process.stderr is not None
    for line in running.process.stderr:
        running.log.append(line.rstrip())
        if match := re.search(r" at (https?://\S+)$", line):
            running.url = match[1]
