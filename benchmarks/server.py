"""Tokens a second that one API process streams: a fake engine gives each stream one token a step, as fast as it can.

Counts tokens by the CPU time of the server process, so that clients on the same cores take nothing from the figure.

    python benchmarks/server.py [--streams 64] [--tokens 500] [--route chat] [--loop uvloop] [--save]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path

from saving import save

from plait.errors import EngineDownError
from plait.formats.hub import resolve_model
from plait.server.app import make_app
from plait.server.keys import KeyRing
from plait.server.options import ServerOptions
from plait.server.serve import http_server, listen, make_server
from plait.supervisor.client import EngineInfo, EngineState, EngineStatus, Health
from plait.supervisor.stream import Stream
from plait.tokenizer.tokenizer import Tokenizer
from plait.types import EngineRequest, FinishReason, TokenEvent

TEXT = "Once upon a time there was a small boat. It wanted to see the sea, and so it went down the river. "
BODIES = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Tell me a story."}]}),
    "completions": ("/v1/completions", {"prompt": "Once upon a time"}),
    "native": ("/completion", {"prompt": "Once upon a time"}),
}


class FakeEngine:
    """An `EngineClient` without a model: every step, each request gets the next token of one text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokens = tokenizer.encode(TEXT, False, parse_special=False)
        self._running: dict[str, Stream] = {}
        self._coming: dict[str, list[TokenEvent]] = {}
        self._stepping: asyncio.Task[None] | None = None
        self.info = EngineInfo(
            model="fake.gguf", architecture="none", device="none", context_length=1 << 20, n_embd=1, n_parameters=0,
            vocab_size=tokenizer.vocab_size, weight_bytes=0, kv_type="f16", kv_tokens=1 << 20, page_size=16,
        )  # fmt: skip

    def health(self) -> Health:
        return Health(state=EngineState.READY)

    def submit(self, request: EngineRequest) -> Stream:
        name, most = request.request_id, request.sampling.max_tokens or 1
        tokens = islice(cycle(self._tokens), most)
        events = [TokenEvent(name, 0, (token,)) for token in tokens]
        events[-1] = events[-1]._replace(finish_reason=FinishReason.LENGTH)
        self._coming[name] = events[::-1]
        self._running[name] = Stream(name, 1, self._drop, lambda name, index: None)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.ensure_future(self._steps())
        return self._running[name]

    def _drop(self, name: str) -> None:
        self._running.pop(name, None)
        self._coming.pop(name, None)

    async def _steps(self) -> None:
        while self._running:
            for name, stream in list(self._running.items()):
                if stream.push(self._coming[name].pop()):
                    self._drop(name)
            await asyncio.sleep(0)

    async def status(self) -> EngineStatus:
        raise EngineDownError("there is no engine")

    async def save_prefix(self, tokens: tuple[int, ...], file: str) -> int:
        return 0

    async def restore_prefix(self, file: str) -> int:
        return 0

    async def erase_prefix(self, tokens: tuple[int, ...]) -> int:
        return 0


async def serve() -> None:
    """The server, until its process is ended; its port is the one line that it prints."""
    tokenizer = Tokenizer.load(resolve_model(None))
    options = ServerOptions(port=0)
    listener = listen(options)
    app = make_app(make_server(FakeEngine(tokenizer), tokenizer, options), KeyRing([]))
    print(listener.getsockname()[1], flush=True)
    await http_server(app, options).serve(sockets=[listener])


async def read(port: int, route: str, tokens: int) -> tuple[int, int]:
    """One stream, to its end: the events that it had, and the writes that they came in."""
    path, body = BODIES[route]
    limit = {"n_predict" if route == "native" else "max_tokens": tokens, "stream": True}
    data = json.dumps({**body, **limit}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    raw = await reader.read(-1)
    writer.close()
    if not raw.startswith(b"HTTP/1.1 200"):
        raise SystemExit(raw[:1000].decode())
    return raw.count(b"data: "), raw.count(b"\r\ndata: ")  # a chunk begins after the line with its size


def cpu_seconds(pid: int) -> float:
    """CPU time of a process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(port: int, route: str, streams: int, tokens: int) -> tuple[int, int]:
    """All streams at once; the sums of what they had."""
    events, writes = zip(*await asyncio.gather(*(read(port, route, tokens) for _ in range(streams))), strict=True)
    return sum(events), sum(writes)


def measure(route: str, streams: int, tokens: int, loop: str) -> dict[str, object]:
    """Start a server, warm it, load it."""
    command = [sys.executable, __file__, "--serve", "--loop", loop]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            asyncio.run(load(port, route, 4, 50))
            before, began = cpu_seconds(process.pid), time.perf_counter()
            events, writes = asyncio.run(load(port, route, streams, tokens))
            wall, cpu = time.perf_counter() - began, cpu_seconds(process.pid) - before
        finally:
            process.terminate()
    if events < streams * tokens * 0.95:  # a token may hold half a character, and then shows nothing
        raise SystemExit(f"{events} events of {streams * tokens} tokens")
    total = streams * tokens
    return {
        "route": route, "streams": streams, "tokens": total, "loop": loop, "writes": writes, "cpu_s": round(cpu, 3),
        "wall_s": round(wall, 3), "tokens_per_cpu_s": round(total / cpu), "tokens_per_s": round(total / wall),
    }  # fmt: skip


def main() -> None:
    """Parse, measure, print a line for each route."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--route", choices=[*BODIES], nargs="*", default=[*BODIES])
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        if args.loop == "uvloop":
            import uvloop

            uvloop.run(serve())
        else:
            asyncio.run(serve())
        return
    found = [measure(route, args.streams, args.tokens, args.loop) for route in args.route]
    for one in found:
        print(one)
    if args.save:
        print(save("server", {"streaming": found}))


if __name__ == "__main__":
    main()
