"""What the routes are handed, and what each of them does first: from a request to a submitted generation."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass, replace
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from plait.errors import EngineDownError, QueueFullError
from plait.server.bodies import LARGE, parse
from plait.server.errors import FieldError, TooLargeError
from plait.server.fields import Extension, service_of
from plait.server.generation import Generation
from plait.server.keys import Gate
from plait.server.leaving import ClientGoneError
from plait.server.options import ServerOptions
from plait.server.prompts import Prompts
from plait.supervisor.client import EngineClient, EngineInfo, EngineState
from plait.tokenizer.tokenizer import Tokenizer
from plait.types import Pooling, SamplingParams, Service, TokenId

EOF_TURNS = 3
_log = logging.getLogger("plait.server")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Server:
    """The parts of a running server."""

    client: EngineClient
    tokenizer: Tokenizer
    prompts: Prompts
    gate: Gate
    options: ServerOptions
    started: int

    @property
    def info(self) -> EngineInfo:
        """Raises `EngineDownError` before the engine was ready."""
        info = self.client.info
        if info is None:
            raise EngineDownError(f"the model is not ready: {self.client.health().reason or 'it is loading'}")
        return info

    @property
    def model(self) -> str:
        """The model's name in the API."""
        return self.options.alias or self.info.model

    async def work(self, request: Request, kind: type[T]) -> T:
        """The typed body of a request to the engine. Raises `EngineDownError`, before it is read, if there is none, and
        `QueueFullError` if its queue was full just now."""
        health = self.client.health()
        if health.state in (EngineState.DRAINING, EngineState.FAILED):
            raise EngineDownError(f"the engine accepts no requests: {health.reason or health.state}")
        if health.queue_retry_s is not None:
            raise QueueFullError("the queue is full; try again later", health.queue_retry_s)
        _ = self.info
        body = await self.body(request, kind)
        for _ in range(EOF_TURNS):  # of the loop, until the connection's end is seen that lies behind the body
            await asyncio.sleep(0)
        if await request.is_disconnected():  # many are, where the server stood still and its backlog filled
            raise ClientGoneError
        return body

    def service(self, request: Request, extension: Extension | None) -> Service:
        """How a request is served, by its body, its headers and its key. Raises `FieldError`."""
        tenant, options = request.state.seat.tenant, self.options
        return service_of(extension, request.headers, tenant, options.timeout, options.share_prefixes)

    async def body(self, request: Request, kind: type[T]) -> T:
        """The typed body of a request. Raises `TooLargeError` or `FieldError`."""
        most = self.options.max_body_mib * 1024 * 1024
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise TooLargeError(f"the body has {length} bytes; this server takes {most}")
        parts, size = [], 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise TooLargeError(f"the body has more than the {most} bytes that this server takes")
                parts.append(part)
        except ClientDisconnect:
            raise ClientGoneError from None
        body = b"".join(parts)
        return await self.prompts.aside(len(body), LARGE, lambda: parse(body, kind))

    def submit(
        self,
        request: Request,
        prompt: tuple[TokenId, ...],
        params: SamplingParams,
        extension: Extension | None = None,
        *,
        prompt_logprobs: int | None = None,
        pooling: Pooling | None = None,
        cache: bool = True,
        logged: str = "",
        keep: frozenset[str] = frozenset(),
    ) -> Generation:
        """Hand a prompt to the engine. `keep` are special tokens that are shown. Raises `FieldError`, `RateLimitError`
        or `EngineDownError`."""
        seat: Seat = request.state.seat
        service = self.service(request, extension)
        highest = self.options.highest
        if seat.tenant and int(service.priority) < highest:
            raise FieldError(f"a key may ask for the class {highest.name.lower()} at most", "plait.priority")
        if not cache:
            service = replace(service, cache="off")
        seat.claim(len(prompt) + self._most_new(params, len(prompt)) * params.n)
        request_id = f"{seat.request_id}.{len(seat.generations)}.{secrets.token_hex(4)}"
        plain = replace(
            self.prompts.requests.make(request_id, prompt, params), prompt_logprobs=prompt_logprobs, pooling=pooling
        )
        if self.options.log_prompts:
            _log.info("%s prompt: %s", seat.request_id, logged or list(prompt))
        generation = Generation(self.client, self.tokenizer, service.applied(plain, time.monotonic()), keep)
        seat.generations.append(generation)
        return generation

    def _most_new(self, params: SamplingParams, prompt_tokens: int) -> int:
        room = max(0, self.info.context_length - prompt_tokens)
        return room if params.max_tokens is None else min(params.max_tokens, room)


class Seat:
    """One HTTP request while it is in: whose it is, and what it holds. `leave` gives all of it back."""

    def __init__(self, gate: Gate, tenant: str, request_id: str) -> None:
        """Raises `RateLimitError`, and then there is no seat."""
        gate.enter(tenant, time.monotonic())
        self.tenant, self.request_id = tenant, request_id
        self.generations: list[Generation] = []
        self._gate = gate
        self._claimed = 0

    def claim(self, tokens: int) -> None:
        """Raises `RateLimitError` or `FieldError`."""
        self._gate.size(self.tenant, tokens, time.monotonic(), self._claimed)
        self._claimed += tokens

    def leave_generations(self) -> None:
        """End what still runs."""
        for generation in self.generations:
            generation.abort()

    def leave(self) -> None:
        """The request is over, however: what still runs is ended."""
        self.leave_generations()
        usages = [generation.usage for generation in self.generations]
        used = sum(usage.prompt_tokens + usage.generated_tokens for usage in usages)
        self._gate.leave(self.tenant, self._claimed, used, time.monotonic())
