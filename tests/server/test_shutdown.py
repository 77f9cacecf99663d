"""The end of a server, over real HTTP: what runs ends or is handed back, in bounded time, and no engine is left."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from tests.support.servers import RunningServer, start_server

LONG = {"prompt": "Once upon a time", "ignore_eos": True, "temperature": 0, "max_tokens": 8000}


class Stream:
    """A streamed answer that was begun."""

    def __init__(self, server: RunningServer, path: str, body: dict[str, Any]) -> None:
        where = urlparse(server.url)
        self.connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=60)
        self.connection.request("POST", path, json.dumps({**body, "stream": True}))
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200
        assert self.answer.readline().startswith(b"data: {")

    def rest(self) -> list[str]:
        """Its further events, once it has ended."""
        lines = self.answer.read().decode().split("\n")
        self.connection.close()
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def signalled(server: RunningServer, wait_s: float = 0.3) -> None:
    server.process.send_signal(signal.SIGTERM)
    time.sleep(wait_s)


def handed_back(events: list[str]) -> bool:
    """Whether the last event says so, in OpenAI's words for an error."""
    error = json.loads(events[-1])["error"]
    return (error["code"], error["type"]) == ("engine_down", "unavailable_error") and "send it again" in error[
        "message"
    ]


def test_what_ends_in_time_ends_and_the_rest_is_handed_back() -> None:
    with start_server("--drain-timeout", "2.5", "--parallel", "16") as server, ThreadPoolExecutor() as pool:
        engine = server.engine()
        assert engine is not None
        cut = [Stream(server, "/v1/completions", {**LONG, "n": 4}), Stream(server, "/completion", LONG)]
        unanswered: Future[Any] = pool.submit(server.post, "/v1/completions", {**LONG, "n": 4})
        time.sleep(0.2)
        short = Stream(server, "/v1/completions", {**LONG, "max_tokens": 8})
        began = time.monotonic()
        signalled(server, 0.1)
        status, _, raw = server.get("/health")
        assert (status, json.loads(raw)["state"]) == (503, "draining")
        status, headers, answer = server.post("/v1/completions", LONG)
        assert (status, answer["error"]["code"]) == (503, "engine_down")
        assert int(headers["retry-after"]) >= 1
        events = short.rest()
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert time.monotonic() - began < 2.5, "the short one ended while there was time"
        for stream in cut:
            assert handed_back(stream.rest())
        status, headers, answer = unanswered.result(10)
        assert (status, answer["error"]["code"]) == (503, "engine_down")
        assert int(headers["retry-after"]) >= 1
        server.process.wait(10)
        assert 2.5 <= time.monotonic() - began < 8
        assert not alive(engine)
    assert not [line for line in server.log if "Traceback" in line]


@pytest.mark.parametrize("busy", [True, False])
def test_the_second_signal_ends_at_once_even_if_the_engine_hangs(busy: bool) -> None:
    """While it drains, and while it waits for an engine that was told to stop."""
    with start_server("--drain-timeout", "60") as server:
        engine = server.engine()
        assert engine is not None
        stream = Stream(server, "/v1/completions", LONG) if busy else None
        os.kill(engine, signal.SIGSTOP)
        signalled(server)
        assert server.process.poll() is None
        began = time.monotonic()
        signalled(server, 0)
        if stream is not None:
            assert handed_back(stream.rest())
        server.process.wait(10)
        assert time.monotonic() - began < 3
        assert not alive(engine)
    assert not [line for line in server.log if "Traceback" in line]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def stopped_engine(server: RunningServer) -> int:
    """The engine, stopped while it loads; not before it is a program of its own, since until then its parent waits."""
    while (engine := server.engine()) is None or b"plait.engine" not in Path(f"/proc/{engine}/cmdline").read_bytes():
        assert server.process.poll() is None
        time.sleep(0.001)
    os.kill(engine, signal.SIGSTOP)
    return engine


def health(server: RunningServer) -> tuple[int, str]:
    """Status and state, once somebody listens."""
    for _ in range(600):
        try:
            status, _, raw = server.get("/health")
        except OSError:
            time.sleep(0.02)
            continue
        return status, json.loads(raw)["state"]
    raise AssertionError(f"nobody listens: {server.log}")


def test_while_the_model_loads_health_is_503_and_requests_are_asked_to_come_again() -> None:
    with start_server(port=free_port()) as server:
        engine = stopped_engine(server)
        assert health(server) == (503, "starting")
        status, headers, answer = server.post("/v1/completions", LONG)
        assert (status, answer["error"]["code"]) == (503, "engine_down")
        assert int(headers["retry-after"]) >= 1
        os.kill(engine, signal.SIGCONT)
        end = time.monotonic() + 30
        while (found := health(server)) != (200, "ready"):
            assert found == (503, "starting")
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_signal_while_the_model_loads_ends_the_server() -> None:
    with start_server(port=free_port()) as server:
        engine = stopped_engine(server)
        assert health(server) == (503, "starting")
        began = time.monotonic()
        signalled(server, 0)
        server.process.wait(20)
        assert time.monotonic() - began < 5
        assert not alive(engine)


def test_a_server_whose_engine_has_failed_for_good_ends_and_says_why() -> None:
    """Nobody would start the engine anew; whoever watches the server sees its end and its status."""
    environ = {**os.environ, "PLAIT_TEST_CRASH_TOKEN": "777"}
    with start_server("--max-restarts", "0", environ=environ, status=1) as server:
        stream = Stream(server, "/v1/completions", {**LONG, "n": 2})
        poison = threading.Thread(target=server.post, args=("/v1/completions", {"prompt": [5, 777, 7]}))
        poison.start()
        error = json.loads(stream.rest()[-1])["error"]
        assert error["code"] == "engine_down"
        poison.join()
        server.process.wait(10)
    ends = [line for line in server.log if "the server ends" in line]
    assert len(ends) == 1
    assert "crashed again and again" in ends[0]
    assert "SIGKILL" in ends[0]
    assert not [line for line in server.log if "Traceback" in line]
