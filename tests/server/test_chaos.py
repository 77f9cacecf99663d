"""The engine killed in mid-stream: clients over HTTP receive the very tokens of an undisturbed run."""

from __future__ import annotations

import concurrent.futures
import json
import os
import random
import signal
import threading
import time
from typing import Any

import pytest
from tests.support.servers import RunningServer, start_server

KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.9, "seed": 11},
    {"temperature": 0.8, "seed": 12, "repeat_penalty": 1.2, "frequency_penalty": 0.3},
    {"temperature": 0.7, "seed": 13, "n_probs": 2},
    {"temperature": 0, "stop": ["friend"]},
    {"temperature": 0.9, "seed": 15, "mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.4},
    {"temperature": 0.6, "seed": 14, "grammar": 'root ::= " the " ("cat" | "dog" | "sun" | " and " | " ")*'},
]


def bodies(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Story {i}. Once upon a time", "n_predict": 40 + i % 50, "stream": True, **KINDS[i % len(KINDS)]}
        for i in range(count)
    ]


def text_of(server: RunningServer, body: dict[str, Any]) -> tuple[str, int, bool]:
    """(text, tokens as the events count them, whether the last event was the end)."""
    status, _, raw = server.send("POST", "/completion", json.dumps(body).encode())
    assert status == 200, raw
    events = [json.loads(line.removeprefix("data: ")) for line in raw.decode().split("\n\n") if line]
    assert not [event for event in events if "error" in event], events[-1]
    tokens = sum(len(event["tokens"]) for event in events)
    assert tokens == events[-1]["tokens_predicted"]
    return "".join(event["content"] for event in events), tokens, events[-1]["stop"]


def all_texts(server: RunningServer, asked: list[dict[str, Any]], width: int) -> list[tuple[str, int, bool]]:
    with concurrent.futures.ThreadPoolExecutor(width) as pool:
        return list(pool.map(lambda body: text_of(server, body), asked))


def kill_now_and_then(server: RunningServer, times: int, done: threading.Event, killed: list[int]) -> None:
    draw = random.Random(5)
    while len(killed) < times and not done.wait(draw.uniform(0.05, 0.5)):
        engine = server.engine()
        status = server.status()
        if engine is not None and engine not in killed and status["health"]["state"] == "ready" and status["running"]:
            os.kill(engine, signal.SIGKILL)
            killed.append(engine)


@pytest.mark.parametrize(
    ("streams", "times"), [(24, 2), pytest.param(200, 10, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_streams_survive_the_engine(streams: int, times: int) -> None:
    asked = bodies(streams)
    with start_server("--max-restarts", "50") as server:
        undisturbed = all_texts(server, asked, streams)
        done, killed = threading.Event(), list[int]()
        killer = threading.Thread(target=kill_now_and_then, args=(server, times, done, killed))
        killer.start()
        rounds = 0
        while len(killed) < times and rounds < 40:
            assert all_texts(server, asked, streams) == undisturbed
            rounds += 1
        done.set()
        killer.join()
        assert len(killed) == times
        server.wait_idle()
        assert json.loads(server.get("/health")[2])["restarts"] == times
        assert not [line for line in server.log if "Traceback" in line]


@pytest.mark.parametrize("others", [12, pytest.param(49, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_a_poisoned_request_fails_alone(others: int) -> None:
    """A token that kills the engine wherever it is computed; everybody else finishes."""
    with start_server() as plain:
        poison = plain.post("/tokenize", {"content": " zebra"})[2]["tokens"][-1]
        asked = [{**body, "logit_bias": [[poison, False]]} for body in bodies(others)]
        undisturbed = all_texts(plain, asked, others)
    with start_server("--max-restarts", "20", environ={**os.environ, "PLAIT_TEST_CRASH_TOKEN": str(poison)}) as server:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            bad = pool.submit(server.post, "/completion", {"prompt": [5, poison, 7], "n_predict": 5})
            time.sleep(0.02)
            assert all_texts(server, asked, others) == undisturbed
            status, _, answer = bad.result(60)
        assert (status, answer["error"]["code"]) == (500, "engine_crash")
        assert server.get("/health")[0] == 200
