"""Questions to an engine that wait for their answers. Knows messages by their kind; knows no sockets."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from plait.errors import EngineDownError, PlaitError, RequestError
from plait.wire.messages import UNSENDABLE, Message


class Calls:
    """Each question has a number, which comes back with its answer."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()

    async def ask(
        self, send: Callable[[Message], None], seconds: float, kind: Callable[..., Message], *what: Any
    ) -> Any:
        """The answer to `kind(number, *what)`. Raises what it failed with, `EngineDownError` where none came in time,
        `RequestError` for what cannot be sent."""
        call = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[call] = answer
        try:
            send(kind(call, *what))
            return await asyncio.wait_for(answer, seconds)
        except UNSENDABLE as error:
            raise RequestError(f"this cannot be handed to the engine: {error}") from None
        except TimeoutError:
            raise EngineDownError(f"the engine did not answer within {seconds:.0f} s") from None
        finally:
            self._waiting.pop(call, None)

    def answer(self, call: int) -> asyncio.Future[Any]:
        """Where the answer goes; nowhere if nobody waits any more."""
        waiting = self._waiting.pop(call, None)
        if waiting is None or waiting.done():
            return asyncio.get_running_loop().create_future()
        return waiting

    def fail(self, error: PlaitError) -> None:
        """There will be no answers."""
        for call in list(self._waiting):
            self.answer(call).set_exception(error)
