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
