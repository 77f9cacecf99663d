"""One request on its way: events in, pieces of text out. Stop strings end here, as in the in-process face.

Knows an `EngineClient` and the tokenizer; knows no HTTP.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from plait.supervisor.client import EngineClient
from plait.tokenizer.output import OutputText
from plait.tokenizer.tokenizer import Tokenizer
from plait.types import EngineRequest, FinishReason, Logprob, TokenEvent, TokenId


class Piece(NamedTuple):
    """What came of one sample: text that may be shown, its tokens, perhaps the end."""

    sample: int
    text: str
    tokens: tuple[TokenId, ...] = ()
    logprobs: tuple[tuple[Logprob, ...], ...] = ()
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    embedding: tuple[float, ...] = ()

    @property
    def final(self) -> bool:
        return self.finish_reason is not None or self.error is not None


@dataclass(slots=True)
class Usage:
    """What a request came to. Times are in seconds: until the first token, from there to the last, and in the
    engine's queue (the longest of its samples). `batch_tokens` are the mean batches of the samples that have ended."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    prompt_s: float = 0.0
    decode_s: float = 0.0
    queue_s: float = 0.0
    batch_tokens: tuple[float, ...] = ()
    samples: int = 1


class Generation:
    """A submitted request. Read `pieces` until they are empty (`merge` reads several); `abort` if nobody wants them any
    more. `prompt_logprobs` is there with the first pieces."""

    def __init__(
        self, client: EngineClient, tokenizer: Tokenizer, request: EngineRequest, keep: frozenset[str] = frozenset()
    ) -> None:
        """Raises `EngineDownError`."""
        self.request = request
        self.usage = Usage(prompt_tokens=len(request.prompt), samples=request.sampling.n)
        self.prompt_logprobs: tuple[tuple[Logprob, ...], ...] = ()
        self._outputs = [OutputText(tokenizer, request.sampling.stop, keep) for _ in range(request.sampling.n)]
        self._open = request.sampling.n
        self._began = time.monotonic()
        self._first: float | None = None
        self._stream = client.submit(request)

    def stop_string(self, sample: int) -> str | None:
        """The stop string that ended this sample."""
        return self._outputs[sample].stop_string

    async def pieces(self) -> list[Piece]:
        """What is there, in the order it came; nothing at the end."""
        while self._open:
            events = await self._stream.batch()
            if not events:
                break
            pieces = [piece for event in events if (piece := self._piece(event)) is not None]
            if pieces:
                return pieces
        return []

    def abort(self) -> None:
        """End it, wherever it is. May be called again, and after the end."""
        if self._open:
            self._stream.abort()

    def _piece(self, event: TokenEvent) -> Piece | None:
        self._time(event)
        if event.prompt_logprobs:
            self.prompt_logprobs = event.prompt_logprobs
        shown = self._outputs[event.index].see(event)
        self._open -= event.final
        if shown is None:
            return None
        if shown.finish:
            self._stream.finish(event.index)
        self.usage.generated_tokens += len(shown.tokens)
        text, tokens, logprobs, reason, error, _ = shown
        return Piece(event.index, text, tokens, logprobs, reason, error, event.embedding)

    def _time(self, event: TokenEvent) -> None:
        now = time.monotonic()
        if self._first is None and (event.tokens or event.final):
            self._first = now
            self.usage.prompt_s = now - self._began
        if self._first is not None:
            self.usage.decode_s = now - self._first
        if event.final:
            self.usage.queue_s = max(self.usage.queue_s, event.queue_s)
            self.usage.batch_tokens += (event.mean_batch_tokens,) if event.mean_batch_tokens else ()
        if event.final and event.index == 0:
            self.usage.cached_tokens = event.cached_tokens
