"""A stream that fails in the middle: the client is told so, the log says why. Many generations as one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from starlette.types import Message

from plait.errors import DeadlineError
from plait.server.generation import Generation, Piece
from plait.server.merge import merged
from plait.server.sse import EventStream


async def sent(error: Exception) -> bytes:
    """What goes out of a stream that fails so after its first event."""
    out = bytearray()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        raise error

    async def send(message: Message) -> None:
        out.extend(message.get("body", b""))

    async def receive() -> Message:
        await asyncio.sleep(60)
        raise AssertionError("nobody leaves")

    await EventStream(b"data: 0\n\n", chunks(), lambda: None)({"type": "http"}, receive, send)
    return bytes(out)


@pytest.mark.parametrize(("error", "logged"), [(ValueError("secret"), True), (DeadlineError("too late"), False)])
def test_a_failure_of_ours_is_logged_with_its_traceback(
    error: Exception, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "plait.server"):
        out = asyncio.run(sent(error))
    assert out.startswith(b"data: 0\n\ndata: 1\n\ndata: {")
    assert b"secret" not in out
    assert [bool(record.exc_info) for record in caplog.records] == [True] * logged


class Scripted:
    """A generation whose pieces are known."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self._left, self._error = count, error

    async def pieces(self) -> list[Piece]:
        await asyncio.sleep(0)
        if not self._left and self._error:
            raise self._error
        self._left -= 1
        return [Piece(0, str(self._left))] if self._left >= 0 else []


async def taken(*generations: Scripted) -> list[tuple[int, str]]:
    found = merged(cast("Any", list[Generation](cast("Any", generations))))
    return [(number, pieces[0].text) async for number, pieces in found]


@pytest.mark.parametrize("counts", [(3,), (3, 0, 5), tuple(range(200))])
def test_all_pieces_come_each_generation_s_in_order(counts: tuple[int, ...]) -> None:
    found = asyncio.run(taken(*map(Scripted, counts)))
    for number, count in enumerate(counts):
        assert [text for at, text in found if at == number] == [str(i) for i in reversed(range(count))]


def test_an_error_of_one_ends_all() -> None:
    with pytest.raises(ValueError, match="of one"):
        asyncio.run(taken(Scripted(3), Scripted(1, ValueError("of one")), Scripted(1000)))
