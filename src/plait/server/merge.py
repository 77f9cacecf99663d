"""The pieces of several generations: in the order they come, or all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from plait.server.generation import Generation, Piece
from plait.types import FinishReason, Logprob, TokenId


async def merged(generations: Sequence[Generation]) -> AsyncIterator[tuple[int, list[Piece]]]:
    """(number of the generation, pieces), until all have ended."""
    if len(generations) == 1:  # by far the most frequent
        while pieces := await generations[0].pieces():
            yield 0, pieces
        return
    # One queue for all: to wait for the first of many tasks costs as much as there are, each time.
    queue: asyncio.Queue[tuple[int, list[Piece] | Exception]] = asyncio.Queue(maxsize=len(generations))
    pumps = [asyncio.ensure_future(_pump(one, number, queue)) for number, one in enumerate(generations)]
    left = len(pumps)
    try:
        while left:
            number, found = await queue.get()
            if isinstance(found, Exception):
                raise found
            left -= not found
            if found:
                yield number, found
    finally:
        for pump in pumps:
            pump.cancel()


async def _pump(one: Generation, number: int, queue: asyncio.Queue[tuple[int, list[Piece] | Exception]]) -> None:
    """The pieces, and at the end none, or what went wrong."""
    pieces: list[Piece] | Exception | None = None
    while pieces or pieces is None:
        try:
            pieces = await one.pieces()
        except Exception as error:
            pieces = error
        await queue.put((number, pieces))
        if isinstance(pieces, Exception):
            return


@dataclass(slots=True)
class Whole:
    """One sample, all of it."""

    text: str = ""
    tokens: list[TokenId] = field(default_factory=list)
    logprobs: list[tuple[Logprob, ...]] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_string: str | None = None
    embedding: tuple[float, ...] = ()


async def collected(generations: Sequence[Generation]) -> list[list[Whole]]:
    """All samples of all of them. Raises the first error there is."""
    wholes = [[Whole() for _ in range(one.request.sampling.n)] for one in generations]
    async for number, pieces in merged(generations):
        for piece in pieces:
            if piece.error is not None:
                raise piece.error
            sample = wholes[number][piece.sample]
            sample.text += piece.text
            sample.tokens += piece.tokens
            sample.logprobs += piece.logprobs
            if piece.final:
                sample.finish_reason, sample.embedding = piece.finish_reason, piece.embedding
                sample.stop_string = generations[number].stop_string(piece.sample)
    return wholes
