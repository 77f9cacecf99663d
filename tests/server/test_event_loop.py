"""Whatever a body holds, the event loop goes on: /health is answered beside it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

import pytest
from tests.support.servers import RunningServer

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
WORST_S = 0.5
"""Some 50 ms on a quiet machine; before they were mended these took from 0.6 s to minutes."""
WORDS = "word " * 1_000_000
USER = [{"role": "user", "content": "a"}]
CALL = {"function": {"name": "f", "arguments": json.dumps([[]] * 900_000)}}
DRY = {"prompt": "a", "max_tokens": 1, "dry_multiplier": 0.5}
BODIES: dict[str, tuple[str, Any, int]] = {
    "quotes after brackets": (COMPLETIONS, b"[" * 65 + b'"' + b'\\"' * 8000, 400),
    "empty lists": (COMPLETIONS, b'{"prompt":[' + b"[]," * 2_500_000 + b"[]]}", 400),
    "empty objects in a string": (CHAT, {"messages": [{"role": "assistant", "tool_calls": [CALL]}, *USER]}, 400),
    "a long message": (CHAT, {"messages": [{"role": "user", "content": WORDS}]}, 400),
    "a message near the context": (CHAT, {"messages": [{"role": "user", "content": "word " * 60_000}]}, 400),
    "variables": (CHAT, {"messages": USER, "chat_template_kwargs": dict.fromkeys(map(str, range(100_000)), 1)}, 400),
    "sequence breakers": (COMPLETIONS, {**DRY, "dry_sequence_breakers": [f"x{i}" for i in range(3000)]}, 400),
    "as many breakers as may be": (COMPLETIONS, {**DRY, "dry_sequence_breakers": [f"y{i}" for i in range(32)]}, 200),
    "biases": (COMPLETIONS, {"prompt": "a", "logit_bias": [[5, 0.1]] * 200_000}, 400),
    "prompts and samples": (COMPLETIONS, {"prompt": ["a"] * 2000, "n": 100, "max_tokens": 1}, 400),
    "samples": (COMPLETIONS, {"prompt": "a", "n": 1024, "max_tokens": 1}, 400),
    "many prompts": (COMPLETIONS, {"prompt": ["a"] * 1000, "max_tokens": 1}, 200),
    "ids": (COMPLETIONS, b'{"prompt":[' + b"5," * 1_000_000 + b"5]}", 400),
    "ids, mixed": ("/completion", {"prompt": ["a", 5] * 100_000}, 400),
    "stop strings": (COMPLETIONS, {"prompt": "a", "stop": ["x" * 100_000] * 64}, 400),
    "pieces": ("/tokenize", {"content": "word " * 60_000, "with_pieces": True}, 200),
    "ids to text": ("/detokenize", b'{"tokens":[' + b"5," * 1_000_000 + b"5]}", 400),
}


@contextmanager
def watched(server: RunningServer) -> Iterator[list[float]]:
    """The seconds that each question after the server's health took meanwhile."""
    where, took, over = urlparse(server.url), list[float](), threading.Event()

    def ask() -> None:
        link = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
        while not took or not over.wait(0.005):
            began = time.monotonic()
            link.request("GET", "/health")
            link.getresponse().read()
            took.append(time.monotonic() - began)
        link.close()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield took
    finally:
        over.set()
        asking.join()


@pytest.mark.parametrize("name", BODIES)
def test_no_body_holds_the_event_loop_up(server: RunningServer, name: str) -> None:
    route, body, status = BODIES[name]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with watched(server) as took:
        assert server.send("POST", route, data)[0] == status
    assert max(took) < WORST_S, name


def test_an_answer_of_two_writes_does_not_wait_for_the_reader(server: RunningServer) -> None:
    """Nagle's algorithm against the reader's delayed acknowledgement: 40 ms each."""
    with watched(server) as took:
        time.sleep(0.7)
    assert sorted(took)[len(took) // 2] < 0.03
