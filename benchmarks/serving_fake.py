"""The HTTP server of serving.py with an engine that costs next to nothing: one token of one request per event.

    python serving_fake.py [PROFILE]

Prints its port, then its CPU seconds so far for each line it reads; ends at the end of its input. With PROFILE it
writes cProfile's figures there. An event comes once the one before it was taken, so no two share a write.
"""

from __future__ import annotations

import asyncio
import cProfile
import socket
import sys
import time
from pathlib import Path

from plait.formats.hub import bundled_model
from plait.server.app import make_app
from plait.server.context import Server
from plait.server.keys import Gate, KeyLimits, KeyRing
from plait.server.options import ServerOptions
from plait.server.prompts import Prompts
from plait.server.serve import http_server
from plait.supervisor.client import EngineInfo, EngineState, EngineStatus, Health
from plait.supervisor.stream import Stream
from plait.tokenizer.tokenizer import Tokenizer
from plait.types import EngineRequest, FinishReason, TokenEvent

DATA = Path(__file__).resolve().parents[1] / "src" / "plait" / "data"
CONTEXT = 4096


class TakenStream(Stream):
    """A stream that knows whether its reader waits for more."""

    left = 0

    @property
    def waits(self) -> bool:
        return self._waiter is not None and not self._waiter.done()


class FakeEngine:
    """An `EngineClient`: every request gets `max_tokens` tokens of a fixed text, as fast as they are taken."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.info = EngineInfo(
            model="fake", architecture="fake", device="none", context_length=CONTEXT, vocab_size=tokenizer.vocab_size,
            n_embd=1, n_parameters=0, weight_bytes=0, kv_type="F16", kv_tokens=1 << 20, page_size=16,
        )  # fmt: skip
        self._text = tuple(tokenizer.encode("Once there was a small boat that wanted to see the wide and windy sea."))
        self._streams: dict[str, TakenStream] = {}

    def health(self) -> Health:
        return Health(state=EngineState.READY)

    async def status(self) -> EngineStatus:
        return EngineStatus()

    def submit(self, request: EngineRequest) -> TakenStream:
        stream = TakenStream(
            request.request_id, 1, lambda name: self._streams.pop(name, None), lambda name, index: None
        )
        stream.left = request.sampling.max_tokens or CONTEXT
        self._streams[request.request_id] = stream
        return stream

    async def run(self) -> None:
        """The steps."""
        while True:
            for name, stream in list(self._streams.items()):
                if stream.waits:
                    self._step(name, stream)
            await asyncio.sleep(0 if self._streams else 0.001)

    def _step(self, name: str, stream: TakenStream) -> None:
        stream.left -= 1
        token = self._text[stream.left % len(self._text)]
        stream.push(TokenEvent(name, 0, (token,), (), None if stream.left else FinishReason.LENGTH))
        if not stream.left:
            del self._streams[name]

    # Nothing is cached here.
    async def save_prefix(self, tokens: tuple[int, ...], file: str, salt: str = "", salt_from: int = 0) -> int:
        return 0

    async def restore_prefix(self, file: str, salt: str = "", salt_from: int = 0) -> int:
        return 0

    async def erase_prefix(self, tokens: tuple[int, ...], salt: str = "", salt_from: int = 0) -> int:
        return 0


async def serve() -> None:
    tokenizer = Tokenizer.load(bundled_model(DATA))
    engine, options = FakeEngine(tokenizer), ServerOptions()
    gate = Gate(KeyLimits(0, 0, 0, 0), 0)
    parts = Server(engine, tokenizer, Prompts(tokenizer, lambda: CONTEXT), gate, options, int(time.time()))
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    http = http_server(make_app(parts, KeyRing([])), options)
    tasks = [asyncio.create_task(http.serve(sockets=[listener])), asyncio.create_task(engine.run())]
    print(listener.getsockname()[1], flush=True)
    while await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        print(time.process_time(), flush=True)
    http.should_exit = True
    await tasks[0]
    tasks[1].cancel()


def main() -> None:
    profile = cProfile.Profile()
    if len(sys.argv) > 1:
        profile.enable()
    asyncio.run(serve())
    if len(sys.argv) > 1:
        profile.disable()
        profile.dump_stats(sys.argv[1])


if __name__ == "__main__":
    main()
