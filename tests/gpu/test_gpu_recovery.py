"""The engine process killed while a GPU computes: streams over HTTP go on, without a gap and without a duplicate."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.servers import RunningServer, start_server

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
for name in ("msgspec", "starlette", "uvicorn", "httptools"):
    pytest.importorskip(name)

STREAMS, TOKENS = 12, 200
# Float32, where a near tie is too rare to let what follows a restart differ.
OPTIONS = ("--device", "cuda", "--gpu-type", "f32", "--gpu-memory", "0.3", "--max-restarts", "20")
KINDS: list[dict[str, Any]] = [{"temperature": 0}, {"temperature": 0.7, "seed": 5, "repeat_penalty": 1.1}]


@pytest.fixture(autouse=True)
def _only_on_a_gpu(device: str) -> None:
    if not device.startswith("cuda"):
        pytest.skip("the server runs with kernels, which need a GPU")


def body(number: int) -> dict[str, Any]:
    shared = {"n_predict": TOKENS, "stream": True, "ignore_eos": True, **KINDS[number % len(KINDS)]}
    return {"prompt": f"Story {number}. Once upon a time", **shared}


def tokens_of(server: RunningServer, asked: dict[str, Any]) -> list[int]:
    """The tokens of a stream, which must end as it should and count what it sent."""
    status, _, raw = server.send("POST", "/completion", json.dumps(asked).encode())
    assert status == 200, raw
    events = [json.loads(line.removeprefix("data: ")) for line in raw.decode().split("\n\n") if line]
    assert not [event for event in events if "error" in event], events[-1]
    tokens = [token for event in events for token in event["tokens"]]
    assert events[-1]["stop"]
    assert len(tokens) == events[-1]["tokens_predicted"] == asked["n_predict"]
    return tokens


def all_tokens(server: RunningServer, asked: list[dict[str, Any]]) -> Callable[[], list[list[int]]]:
    """Asks at once; the answers when called."""
    pool = concurrent.futures.ThreadPoolExecutor(len(asked))
    found = [pool.submit(tokens_of, server, each) for each in asked]
    return lambda: [each.result(120) for each in found]


def engine_of(server: RunningServer) -> int:
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"plait.engine" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise AssertionError("the server has no engine process")


def test_streams_survive_a_killed_engine() -> None:
    asked = [body(number) for number in range(STREAMS)]
    with start_server(*OPTIONS) as server:
        undisturbed = all_tokens(server, asked)()
        answers = all_tokens(server, asked)
        while len(server.status()["running"]) < STREAMS // 2:
            time.sleep(0.005)
        os.kill(engine_of(server), signal.SIGKILL)
        assert answers() == undisturbed
        assert json.loads(server.get("/health")[2])["restarts"] == 1


def test_a_request_that_kills_the_engine_fails_alone() -> None:
    """Also where its token comes to lie in a step that was launched ahead."""
    poison = 77
    asked = [{**body(number), "n_predict": 40, "logit_bias": [[poison, False]]} for number in range(4)]
    with start_server(*OPTIONS) as plain:
        undisturbed = all_tokens(plain, asked)()
    with start_server(*OPTIONS, environ={**os.environ, "PLAIT_TEST_CRASH_TOKEN": str(poison)}) as server:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            bad = pool.submit(server.post, "/completion", {"prompt": [5, poison, 7], "n_predict": 5})
            assert all_tokens(server, asked)() == undisturbed
            status, _, answer = bad.result(120)
        assert (status, answer["error"]["code"]) == (500, "engine_crash")
