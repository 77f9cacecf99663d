"""Clients that leave, and clients that do not read."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlparse

import pytest
from tests.support.servers import RunningServer, start_server


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


STEPS = 60
"""Small ones that may pass until a leaver is seen to be gone: it takes two, and the questions some of 2 ms each."""
PAGE = 16
ENDLESS: dict[str, object] = {"prompt": "Once upon a time", "max_tokens": 4000, "logit_bias": {"2": -100}}


def phases(server: RunningServer) -> Counter[str]:
    """How many requests are in each phase."""
    return Counter(str(one["phase"]) for one in server.status()["running"])


def steps(server: RunningServer) -> float:
    return float(server.status()["metrics"]["plait_steps_total"][""])


@pytest.fixture(scope="module")
def narrow() -> Iterator[RunningServer]:
    """Two sequences at once, small steps: prompts are long in prefill, and the third request waits."""
    with start_server("--parallel", "2", "--batch-size", "64") as running:
        yield running


def wait_for(server: RunningServer, wanted: dict[str, int]) -> None:
    end = time.monotonic() + 20
    while phases(server) != wanted:
        assert time.monotonic() < end, f"{phases(server)}, and {wanted} is waited for"


@pytest.mark.parametrize("phase", ["waiting", "prefill", "decode"])
@pytest.mark.parametrize("stream", [True, False])
def test_whoever_leaves_is_gone_within_a_few_steps(narrow: RunningServer, phase: str, stream: bool) -> None:
    narrow.wait_idle()
    long: dict[str, object] = {"prompt": [400 + i % 4000 for i in range(7000)], "max_tokens": 1, "cache_prompt": False}
    body: dict[str, object] = {**(long if phase == "prefill" else ENDLESS), "stream": stream}
    others = [connect(narrow, {**ENDLESS, "stream": True}) for _ in range(2 if phase == "waiting" else 1)]
    there: dict[str, int] = {"decode": len(others)}
    wait_for(narrow, there)
    before = narrow.pages()["used"]
    leaver = connect(narrow, body)
    wait_for(narrow, Counter(there) + Counter([phase]))
    held = narrow.pages()["used"]
    began = steps(narrow)
    leaver.close()
    while phases(narrow) != there:
        passed = steps(narrow) - began
        assert passed < STEPS, f"a leaver in {phase} is still there after {passed} steps"
    used, passed = narrow.pages()["used"], steps(narrow) - began
    assert used <= before + len(others) * (2 + (passed + STEPS) / PAGE), f"{held} pages were used, {used} still are"
    for one in others:
        one.close()
    narrow.wait_idle()


def test_a_slow_reader_holds_nobody_up(server: RunningServer) -> None:
    slow = connect(server, {"prompt": "Once upon a time", "max_tokens": 3000, "stream": True, "n": 4})
    began = time.monotonic()
    status, _, found = server.post("/v1/completions", {"prompt": "The cat", "max_tokens": 50, "temperature": 0})
    assert status == 200
    assert found["usage"]["completion_tokens"] <= 50
    assert time.monotonic() - began < 20
    slow.close()
    server.wait_idle()
