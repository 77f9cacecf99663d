"""POST /v1/chat/completions: streaming or whole, n samples, logprobs, tool calls, reasoning."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from plait.server.context import Server
from plait.server.errors import FieldError
from plait.server.fields import OPENAI_DEFAULTS, sampling_params
from plait.server.generation import Generation, Piece
from plait.server.leaving import unless_gone
from plait.server.merge import Whole, collected
from plait.server.openai.bodies import ChatBody
from plait.server.openai.conversation import Conversation, read_conversation
from plait.server.replies import encode, reply, spelled
from plait.server.sse import DONE, event, stream_of
from plait.server.usage import timings_of, usage_of
from plait.tokenizer.tokenizer import Tokenizer
from plait.tokenizer.toolcalls import (
    OutputParser,
    Part,
    Reasoning,
    Text,
    ToolCallArguments,
    ToolCallStart,
)
from plait.types import Logprob, SamplingParams, TokenId


async def chat(server: Server, request: Request) -> Response:
    """The route."""
    body = await server.work(request, ChatBody)
    if body.top_logprobs is not None and not body.logprobs:
        raise FieldError("top_logprobs needs logprobs to be true", "top_logprobs")
    conversation = await read_conversation(server, body)
    bound = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    most = getattr(body, bound)
    params = sampling_params(
        body,
        OPENAI_DEFAULTS,
        server.tokenizer.vocab_size,
        conversation.grammar,
        max_tokens=None if most == -1 else most,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        names={"logprobs": "top_logprobs", "max_tokens": bound},
    )
    await server.prompts.breakers(params)
    generation = server.submit(
        request,
        conversation.prompt,
        params,
        body.plait,
        cache=body.cache_prompt is not False,
        logged=conversation.text,
        keep=conversation.format.markers,
    )
    answer = _Answer(server, generation, params, conversation, request.state.seat.request_id)
    if body.stream:
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return await unless_gone(request, stream_of(answer.events(usage), generation.abort))
    return reply(answer.whole((await unless_gone(request, collected([generation])))[0]))


@dataclass(slots=True)
class _Answer:
    """Makes the body, or the events."""

    server: Server
    generation: Generation
    params: SamplingParams
    conversation: Conversation
    request_id: str
    created: int = field(default_factory=lambda: int(time.time()))

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.server.model,
            "system_fingerprint": f"plait-{self.server.info.numerics[:16]}",
        }

    # --- whole ------------------------------------------------------------------------------------------------------

    def whole(self, samples: list[Whole]) -> dict[str, Any]:
        choices = [self._choice(i, sample) for i, sample in enumerate(samples)]
        return {
            **self._head("chat.completion"),
            "choices": choices,
            **self._counts(),
        }

    def _counts(self) -> dict[str, Any]:
        usage = self.generation.usage
        return {"usage": usage_of(usage), "timings": timings_of(usage)}

    def _choice(self, index: int, sample: Whole) -> dict[str, Any]:
        parser = self.conversation.parser()
        parts: Iterable[Part] = [Text(sample.text)] if parser is None else [*parser.push(sample.text), *parser.finish()]
        message, calls = _message(parts)
        logprobs = None
        if self.params.logprobs is not None:
            logprobs = _logprobs(self.server.tokenizer, sample.tokens, sample.logprobs)
        reason = "tool_calls" if calls and sample.finish_reason == "stop" else sample.finish_reason
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    # --- events -----------------------------------------------------------------------------------------------------

    async def events(self, usage: bool) -> AsyncIterator[bytes]:
        samples = [_Streamed(self.conversation.parser()) for _ in range(self.params.n)]
        head = b"data: " + encode(self._head("chat.completion.chunk"))[:-1]
        tail = b',"usage":null}\n\n' if usage else b"}\n\n"
        while pieces := await self.generation.pieces():
            chunks = []
            for piece in pieces:
                if piece.error is not None:
                    raise piece.error
                choices = self._choices(piece, samples[piece.sample])
                chunks += [b'%s,"choices":[%s]%s' % (head, choice, tail) for choice in choices]
            yield b"".join(chunks)
        if usage:
            yield event(encode({**self._head("chat.completion.chunk"), "choices": [], **self._counts()}))
        yield DONE

    def _choices(self, piece: Piece, sample: _Streamed) -> list[bytes]:
        """The choices of the chunks that this piece makes: its role first, its deltas, its end."""
        choices = []
        if not sample.begun:
            sample.begun = True
            choices.append(_choice(piece.sample, b'{"role":"assistant","content":""}'))
        deltas = sample.deltas(piece)
        logprobs = b"null"
        if self.params.logprobs is not None and piece.tokens:
            logprobs = encode(_logprobs(self.server.tokenizer, piece.tokens, piece.logprobs))
            deltas = deltas or [b'{"content":""}']
        for delta in deltas:
            choices.append(_choice(piece.sample, delta, logprobs))
            logprobs = b"null"
        if piece.final:
            reason = "tool_calls" if sample.calls and piece.finish_reason == "stop" else piece.finish_reason
            choices.append(_choice(piece.sample, b"{}", reason=encode(reason)))
        return choices


class _Streamed:
    """One sample of a stream, so far."""

    def __init__(self, parser: OutputParser | None) -> None:
        self.begun = False
        self.calls = 0
        self._parser = parser

    def deltas(self, piece: Piece) -> list[bytes]:
        """The deltas that come of a piece."""
        if self._parser is None:
            return [b'{"content":%s}' % encode(piece.text)] if piece.text else []
        parts = self._parser.push(piece.text)
        if piece.final:
            parts = [*parts, *self._parser.finish()]
        return [encode(self._delta(part)) for part in parts]

    def _delta(self, part: Part) -> dict[str, Any]:
        match part:
            case Text(text):
                return {"content": text}
            case Reasoning(text):
                return {"reasoning_content": text}
            case ToolCallStart(index, name, given):
                self.calls += 1
                function = {"name": name, "arguments": ""}
                call = {"index": index, "id": given or _call_id(), "type": "function", "function": function}
                return {"tool_calls": [call]}
            case ToolCallArguments(index, text):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def _choice(index: int, delta: bytes, logprobs: bytes = b"null", reason: bytes = b"null") -> bytes:
    return b'{"index":%d,"delta":%s,"logprobs":%s,"finish_reason":%s}' % (index, delta, logprobs, reason)


def _message(parts: Iterable[Part]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    content, reasoning, calls = "", "", list[dict[str, Any]]()
    for part in parts:
        match part:
            case Text(text):
                content += text
            case Reasoning(text):
                reasoning += text
            case ToolCallStart(_, name, given):
                function = {"name": name, "arguments": ""}
                calls.append({"id": given or _call_id(), "type": "function", "function": function})
            case ToolCallArguments(index, text):
                calls[index]["function"]["arguments"] += text
    message: dict[str, Any] = {"role": "assistant", "content": None if calls and not content else content}
    message["refusal"] = None
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message, calls


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _logprobs(
    tokenizer: Tokenizer, tokens: Iterable[TokenId], entries: Iterable[tuple[Logprob, ...]]
) -> dict[str, Any]:
    content = []
    for token, (own, *others) in zip(tokens, entries, strict=False):
        top = [spelled(tokenizer, one) for one in others]
        content.append({**spelled(tokenizer, Logprob(token, own.logprob)), "top_logprobs": top})
    return {"content": content, "refusal": None}
