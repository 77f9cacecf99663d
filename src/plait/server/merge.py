"""The pieces of several generations in the order they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from plait.server.generation import Generation, Piece


async def merged(generations: Sequence[Generation]) -> AsyncIterator[tuple[int, list[Piece]]]:
    """(number of the generation, pieces), until all have ended."""
    if len(generations) == 1:  # by far the most frequent
        while pieces := await generations[0].pieces():
            yield 0, pieces
        return
    waiting = {asyncio.ensure_future(one.pieces()): number for number, one in enumerate(generations)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                number = waiting.pop(task)
                pieces = task.result()
                if pieces:
                    waiting[asyncio.ensure_future(generations[number].pieces())] = number
                    yield number, pieces
    finally:
        for task in waiting:
            task.cancel()
