"""Server-sent events straight over ASGI: many pieces in one write. Readers that stop reading are seen by `connection`.

The answer's status is decided by the first pieces: an error that comes instead of them is a plain error answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from plait.server.errors import OURS, answer_to, error_body
from plait.server.leaving import gone

DONE = b"data: [DONE]\n\n"
_log = logging.getLogger("plait.server")


def event(body: bytes) -> bytes:
    """One event."""
    return b"data: " + body + b"\n\n"


class EventStream(Response):
    """Sends the events of `chunks`, each some whole events. `first` was taken from it already. `leave` is called when
    the client goes or the end is reached."""

    def __init__(self, first: bytes, chunks: AsyncIterator[bytes], leave: Callable[[], None]) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._first, self._chunks, self._leave = first, chunks, leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_all(send))
        watching = asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._leave()
            for task in (sending, watching):
                task.cancel()
            for result in await asyncio.gather(sending, watching, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, OSError):
                    raise result

    async def _send_all(self, send: Send) -> None:
        headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._write(send, self._first)
        try:
            async for chunk in self._chunks:
                await self._write(send, chunk)
        except OSError:
            raise
        except Exception as error:  # the status is out: it can only be told in the stream
            if answer_to(error) is OURS:
                _log.error("a stream failed: %s: %s", type(error).__name__, error, exc_info=error)
            await self._write(send, event(error_body(error)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, chunk: bytes) -> None:
        message: Message = {"type": "http.response.body", "body": chunk, "more_body": True}
        await send(message)


async def stream_of(chunks: AsyncIterator[bytes], leave: Callable[[], None]) -> EventStream:
    """The stream, once its first events are there. Raises what came instead of them."""
    first = await anext(chunks, b"")
    return EventStream(first, chunks, leave)
