"""Clients that leave, and clients that do not read."""

from __future__ import annotations

import json
import socket
import time
from urllib.parse import urlparse

from tests.support.servers import RunningServer


def connect(server: RunningServer, body: dict[str, object]) -> socket.socket:
    """A request on a raw socket."""
    where = urlparse(server.url)
    made = socket.create_connection((where.hostname, where.port), timeout=30)
    data = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
    )
    made.sendall("\r\n".join((*head, "", "")).encode() + data)
    return made


def running(server: RunningServer) -> int:
    return len(server.status()["running"])


def test_whoever_leaves_frees_its_pages(server: RunningServer) -> None:
    server.wait_idle()
    body: dict[str, object] = {"prompt": "Once upon a time", "max_tokens": 4000, "logit_bias": {"2": -100}}
    streams = [connect(server, {**body, "stream": True}) for _ in range(6)]
    whole = [connect(server, body) for _ in range(6)]  # some of these twelve wait in the queue
    for one in streams:
        assert one.recv(16).startswith(b"HTTP/1.1 200")
    assert running(server) == 12
    for one in [*streams, *whole]:
        one.close()
    end = time.monotonic() + 5
    while running(server) and time.monotonic() < end:
        time.sleep(0.02)
    assert running(server) == 0
    server.wait_idle()


def test_a_slow_reader_holds_nobody_up(server: RunningServer) -> None:
    slow = connect(server, {"prompt": "Once upon a time", "max_tokens": 3000, "stream": True, "n": 4})
    began = time.monotonic()
    status, _, found = server.post("/v1/completions", {"prompt": "The cat", "max_tokens": 50, "temperature": 0})
    assert status == 200
    assert found["usage"]["completion_tokens"] <= 50
    assert time.monotonic() - began < 20
    slow.close()
    server.wait_idle()
