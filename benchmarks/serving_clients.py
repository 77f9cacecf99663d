"""Clients of serving.py: a closed loop of streaming completions over raw sockets, too cheap to be what is measured.

    python serving_clients.py '{"port": 8000, "path": "/v1/completions", "clients": 8, "requests": 16, "start": 0,
                              "body": {...}}'

prints one JSON object: seconds, events, completed requests, time to the first event and gaps between events in
milliseconds. Every request has a connection of its own. `{n}` in the body becomes
the request's number, from `start` on.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Load:
    """What is asked and what came of it."""

    job: dict[str, Any]
    next_number: int = 0
    events: int = 0
    completed: int = 0
    first_ms: list[float] = field(default_factory=list)
    gaps_ms: list[float] = field(default_factory=list)

    def request(self, number: int) -> bytes:
        raw = json.dumps(self.job["body"]).replace("{n}", str(self.job["start"] + number)).encode()
        head = f"POST {self.job['path']} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return f"{head}Connection: close\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw


class Reader(asyncio.Protocol):
    """One answer, until the server closes."""

    def __init__(self, load: Load, number: int, done: asyncio.Future[None]) -> None:
        self._load, self._number, self._done = load, number, done
        self._sent = self._last = 0.0
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._load.request(self._number))
        self._sent = time.perf_counter()

    def data_received(self, data: bytes) -> None:
        now, load = time.perf_counter(), self._load
        if self._ended:
            return
        if load.job.get("counting"):
            load.events += data.count(b"data: {")
            self._ended = b"data: [DONE]" in data
            return
        events = data.count(b"data: {")
        if events and not self._last:
            load.first_ms.append((now - self._sent) * 1000)
        elif events:
            load.gaps_ms.append((now - self._last) * 1000)
        if events:
            self._last = now
        load.events += events
        self._ended = b"data: [DONE]" in data

    def connection_lost(self, error: Exception | None) -> None:
        self._load.completed += self._ended
        if not self._done.done():
            self._done.set_result(None)


async def client(load: Load) -> None:
    loop = asyncio.get_running_loop()
    while load.next_number < load.job["requests"]:
        number, load.next_number = load.next_number, load.next_number + 1
        done: asyncio.Future[None] = loop.create_future()
        await loop.create_connection(lambda n=number, d=done: Reader(load, n, d), "127.0.0.1", load.job["port"])
        await done


async def play(job: dict[str, Any]) -> dict[str, Any]:
    load = Load(job)
    began = time.perf_counter()
    await asyncio.gather(*[client(load) for _ in range(job["clients"])])
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds, "events": load.events, "completed": load.completed,
        "first_ms": load.first_ms, "gaps_ms": load.gaps_ms,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(asyncio.run(play(json.loads(sys.argv[1])))))
