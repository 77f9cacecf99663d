"""Many connections at once, half of which leave at a random moment: what does the server keep of them?

    python benchmarks/soak.py [MODEL.gguf] [--connections 500] [--seconds 600] [--save]

Plays streaming and whole completions to a server of its own. A client that leaves does so while it waits, during the
prompt, or in mid-stream. Every second the engine verifies its bookkeeping (`check`) and tells its pages. In the end no
page may be in use, the free and cached ones must be as many as in the beginning, the log must hold no error, and memory
may not have grown between the second quarter and the last. Exits with 1 and says what is wrong otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import saving

SHARED = "Once upon a time there was a small boat that wanted to see the wide and windy sea. "
LONGEST_STAY_S = 3.0
"""Who leaves does so within this time."""
GROWTH = 1.10
SLACK_MIB = 16.0
"""Memory is flat if the last quarter's median is at most so many times the first's, and so much more."""
JUDGED_S = 300.0
"""A shorter run says nothing of memory: KV memory becomes resident as its pages are first used."""
SERVED = ("--max-connections", "0")
"""A machine that pauses has more clients come than it saw leave; that is not what is looked at here."""
PATIENCE, QUESTIONS = 5, 60
PAUSE_S = 5.0
"""A longer gap between two looks is a pause of the machine, and does not count as time of the run."""
BAD_LINES = ("Traceback", "Exception", "failed:", "never retrieved", "without completing", "engine process ended")


@dataclass
class Sample:
    """The server at a moment. Memory is resident, in MiB."""

    at_s: float
    api_mib: float
    engine_mib: float
    pages: dict[str, float]
    running: int
    open_requests: int
    restarts: int


@dataclass
class Soak:
    """What is played to whom, and what came of it."""

    port: int
    seed: int
    until: float
    ends: Counter[str] = field(default_factory=Counter)
    number: int = 0
    paused_s: float = 0.0

    def body(self, draw: random.Random) -> dict[str, Any]:
        self.number += 1
        stem = SHARED * draw.choice((0, 1, 1, 2))
        body: dict[str, Any] = {
            "prompt": f"{stem}Story {self.number if draw.random() < 0.7 else 7}.",
            "max_tokens": draw.choice((1, 8, 24, 60, 200)),
            "temperature": draw.choice((0, 0.8)),
            "n": draw.choice((1, 1, 1, 2)),
            "stream": draw.random() < 0.8,
        }
        if draw.random() < 0.1:
            body["stop"] = ["the"]
        if draw.random() < 0.1:
            body["grammar"] = 'root ::= ("a" | "b" | " and ")*'
        return body


async def client(soak: Soak, number: int) -> None:
    """One connection after another; every second client of them leaves early."""
    draw = random.Random(f"{soak.seed}/{number}")
    while time.monotonic() < soak.until:
        stay = draw.uniform(0, LONGEST_STAY_S) if number % 2 else None
        try:
            soak.ends[await _request(soak, soak.body(draw), stay)] += 1
        except (OSError, asyncio.IncompleteReadError) as error:
            soak.ends[type(error).__name__] += 1
            await asyncio.sleep(0.1)


async def _request(soak: Soak, body: dict[str, Any], stay: float | None) -> str:
    """How it ended: 'left', or the status, with 'cut' where the answer was not whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", soak.port)
    try:
        data = json.dumps(body).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        if stay is None:
            return _told(await reader.read(-1), body)
        with suppress(TimeoutError):
            return _told(await asyncio.wait_for(reader.read(-1), stay), body)
        return "left"
    finally:
        writer.transport.abort()


def _told(raw: bytes, body: dict[str, Any]) -> str:
    status = raw[9:12].decode() or "none"
    whole = b"[DONE]" in raw if body["stream"] and status == "200" else b"\r\n\r\n" in raw
    return status if whole else f"{status} cut"


async def ask(port: int, path: str) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        raw = await reader.read(-1)
    finally:
        writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        raise ValueError("the status came in chunks")
    return json.loads(body)


# --- the server -------------------------------------------------------------------------------------------------------


@dataclass
class Serving:
    port: int
    process: asyncio.subprocess.Process
    log: list[str]
    began: float = field(default_factory=time.monotonic)

    async def sample(self) -> Sample:
        for _ in range(QUESTIONS):
            status = await ask(self.port, "/status.json")
            if "metrics" in status:
                break
            await asyncio.sleep(0.2)  # after a pause of the machine the answer has been waited for for too long already
        else:
            raise RuntimeError(f"the engine does not answer: {status.get('error')}")
        (engine,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return Sample(
            time.monotonic() - self.began,
            _resident_mib(self.process.pid),
            _resident_mib(int(engine)),
            status["metrics"].get("plait_kv_pages", {}),
            len(status["running"]),
            status["open_requests"],
            status["health"]["restarts"],
        )

    async def idle(self, seconds: float = 60.0) -> Sample:
        """The state once nothing runs."""
        end = time.monotonic() + seconds
        while True:
            sample = await self.sample()
            if (not sample.running and not sample.pages.get("used")) or time.monotonic() > end:
                return sample
            await asyncio.sleep(0.1)


@asynccontextmanager
async def served(model: str | None, environ: dict[str, str]) -> AsyncIterator[Serving]:
    command = [sys.executable, "-m", "plait", "serve", "--port", "0", *SERVED, *(["-m", model] if model else [])]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, env=environ)
    assert process.stderr is not None
    log: list[str] = []
    while not (found := re.search(r" at http://\S+:(\d+)$", log[-1] if log else "")):
        line = (await process.stderr.readline()).decode()
        if not line:
            raise SystemExit(f"no server: {log}")
        log.append(line.rstrip())
    reading = asyncio.create_task(_read(process.stderr, log))
    try:
        yield Serving(int(found[1]), process, log)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        for _ in range(PATIENCE):
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 60)
                break
        else:
            process.kill()
        await reading


async def _read(stream: asyncio.StreamReader, log: list[str]) -> None:
    while line := await stream.readline():
        log.append(line.decode().rstrip())


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


# --- the run ----------------------------------------------------------------------------------------------------------


async def run(model: str | None, connections: int, seconds: float, environ: dict[str, str]) -> dict[str, Any]:
    """The figures; `faults` is empty if all is well."""
    async with served(model, {**environ, "PLAIT_TEST_CHECK": "1"}) as serving:
        await _request(Soak(serving.port, 0, 0.0), {"prompt": "Once", "max_tokens": 1, "stream": False}, None)
        first = await serving.idle()
        soak = Soak(serving.port, 1, time.monotonic() + seconds)
        clients = [asyncio.create_task(client(soak, number)) for number in range(connections)]
        samples = []
        try:
            while time.monotonic() < soak.until:
                turn = time.monotonic()
                samples.append(await serving.sample())
                await asyncio.sleep(min(1.0, seconds / 20))
                turn = time.monotonic() - turn
                if turn > PAUSE_S:
                    soak.until += turn
                    soak.paused_s += turn
        except BaseException:
            soak.until = 0.0
            raise
        await asyncio.gather(*clients)
        last = await serving.idle()
    return _figures(soak, [first, *samples, last], serving, connections, seconds)


def _figures(soak: Soak, samples: list[Sample], serving: Serving, connections: int, seconds: float) -> dict[str, Any]:
    first, last, middle = samples[0], samples[-1], samples[len(samples) // 2]
    bad = [line for line in serving.log if any(word in line for word in BAD_LINES)]
    return {
        "connections": connections,
        "seconds": seconds,
        "paused_seconds": soak.paused_s,
        "requests": sum(soak.ends.values()),
        "ends": dict(soak.ends),
        "start": asdict(first),
        "middle": asdict(middle),
        "end": asdict(last),
        "most_running": max(sample.running for sample in samples),
        "checks": len(samples),
        "memory_mib": [[round(s.at_s), round(s.api_mib, 1), round(s.engine_mib, 1)] for s in _thinned(samples)],
        "faults": _faults(soak, samples, serving, bad),
        "log": bad[:20],
    }


def _thinned(samples: list[Sample]) -> list[Sample]:
    return samples[:: max(1, len(samples) // 40)]


def _faults(soak: Soak, samples: list[Sample], serving: Serving, bad: list[str]) -> list[str]:
    first, last = samples[0], samples[-1]
    found = [f"{count} answers ended as '{end}'" for end, count in soak.ends.items() if end not in ("200", "left")]
    if last.pages.get("used") or _room(last) != _room(first):
        found.append(f"pages in the beginning {first.pages}, in the end {last.pages}")
    if last.restarts:
        found.append(f"the engine was started anew {last.restarts} times")
    if bad:
        found.append(f"the log has {len(bad)} lines of errors")
    if serving.process.returncode:
        found.append(f"the server ended with the status {serving.process.returncode}")
    if last.at_s - first.at_s < JUDGED_S:
        return found
    quarter = len(samples) // 4
    for name in ("api_mib", "engine_mib"):
        values = [getattr(sample, name) for sample in samples]
        early, late = median(values[quarter : 2 * quarter]), median(values[-quarter:])
        if late > early * GROWTH + SLACK_MIB:
            found.append(f"{name} grew from {early:.1f} in the second quarter to {late:.1f} in the last")
    return found


def _room(sample: Sample) -> float:
    return sample.pages.get("free", 0) + sample.pages.get("cached", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    figures = asyncio.run(run(args.model, args.connections, args.seconds, dict(os.environ)))
    print(json.dumps({key: value for key, value in figures.items() if key != "memory_mib"}, indent=1))
    if args.save:
        print(saving.save("soak", figures))
    sys.exit(bool(figures["faults"]))


if __name__ == "__main__":
    main()
