"""The events of one request, on their way to one reader. Knows events; knows no engine."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from plait.types import TokenEvent


class Stream:
    """A `RequestStream`. `abort` and `finish` are told to `on_abort` and `on_finish`."""

    def __init__(
        self,
        request_id: str,
        samples: int,
        on_abort: Callable[[str], None],
        on_finish: Callable[[str, int], None],
    ) -> None:
        self._request_id = request_id
        self._coming = samples  # whose final event has not come
        self._open = samples  # whose final event has not been read
        self._on_abort, self._on_finish = on_abort, on_finish
        self._events: deque[TokenEvent] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def push(self, event: TokenEvent) -> bool:
        """News from the engine. Whether it was the last."""
        self._events.append(event)
        if event.finish_reason is not None or event.error is not None:
            self._coming -= 1
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        return not self._coming

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> TokenEvent:
        while not self._events:
            if not self._open:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._next()

    async def batch(self) -> list[TokenEvent]:
        """All events that are there, at least one; none at the end."""
        try:
            events = [await self.__anext__()]
        except StopAsyncIteration:
            return []
        while self._events:
            events.append(self._next())
        return events

    def _next(self) -> TokenEvent:
        event = self._events.popleft()
        if event.finish_reason is not None or event.error is not None:
            self._open -= 1
        return event

    def abort(self) -> None:
        self._on_abort(self._request_id)

    def finish(self, index: int) -> None:
        self._on_finish(self._request_id, index)
