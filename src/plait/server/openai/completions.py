"""POST /v1/completions: prompts as text or ids, several at once, n samples of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from plait.server.context import Server
from plait.server.errors import FieldError
from plait.server.fields import OPENAI_DEFAULTS, sampling_params
from plait.server.generation import Generation, Piece
from plait.server.grammars import own_grammar
from plait.server.leaving import unless_gone
from plait.server.merge import Whole, collected, merged
from plait.server.openai.bodies import CompletionBody, refuse_completion
from plait.server.openai.usage import usage_of
from plait.server.prompts import MANY, SHORT
from plait.server.replies import encode, reply
from plait.server.sse import DONE, event, stream_of
from plait.tokenizer.tokenizer import Tokenizer
from plait.types import Logprob, SamplingParams, TokenId

MAX_PROMPTS = 2048
"""And as many answers."""


async def completions(server: Server, request: Request) -> Response:
    """The route."""
    body = await server.work(request, CompletionBody)
    refuse_completion(body)
    prompts = await server.prompts.several(body.prompt, "prompt", MAX_PROMPTS)
    params = await _params(server, body)
    # Echo with logprobs wants those of the prompt, too.
    wanted = params.logprobs if body.echo and params.logprobs is not None else None
    if len(prompts) * params.n > MAX_PROMPTS:
        raise FieldError(f"{len(prompts)} prompts with n = {params.n} are more than {MAX_PROMPTS} answers", "n")
    await server.prompts.breakers(params)
    generations = []
    for number, (text, ids) in enumerate(prompts):
        if number % MANY == MANY - 1:
            await asyncio.sleep(0)
        generations.append(
            server.submit(
                request,
                ids,
                params,
                body.plait,
                prompt_logprobs=wanted,
                cache=body.cache_prompt is not False,
                logged=text,
            )
        )
    echoes = [text or await server.prompts.decode(ids) for text, ids in prompts] if body.echo else []
    answer = _Answer(server, generations, params, echoes, request.state.seat.request_id)
    if body.stream:
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        leave = request.state.seat.leave_generations
        return await unless_gone(request, stream_of(answer.events(usage), leave))
    wholes = await unless_gone(request, collected(generations))
    size = sum(len(one.request.prompt) for one in generations) * (params.logprobs or 0) if body.echo else 0
    return await server.prompts.aside(size, SHORT, lambda: reply(answer.whole(wholes)))


async def _params(server: Server, body: CompletionBody) -> SamplingParams:
    grammar = await own_grammar(body.grammar, body.json_schema)
    most = None if body.max_tokens == -1 else body.max_tokens
    return sampling_params(
        body, OPENAI_DEFAULTS, server.tokenizer.vocab_size, grammar, max_tokens=most, logprobs=body.logprobs
    )


@dataclass(slots=True)
class _Answer:
    """Makes the body, or the events. Choice i * n + k is sample k of prompt i."""

    server: Server
    generations: list[Generation]
    params: SamplingParams
    echoes: list[str]
    request_id: str

    def _head(self) -> dict[str, Any]:
        return {
            "id": f"cmpl-{self.request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.server.model,
        }

    def whole(self, wholes: list[list[Whole]]) -> dict[str, Any]:
        choices = []
        for number, (generation, samples) in enumerate(zip(self.generations, wholes, strict=True)):
            for k, sample in enumerate(samples):
                choices.append(self._choice(number, generation, k, sample))
        return {**self._head(), "choices": choices, "usage": usage_of(self.generations)}

    def _choice(self, number: int, generation: Generation, k: int, sample: Whole) -> dict[str, Any]:
        echo = self.echoes[number] if self.echoes else ""
        logprobs = None
        if self.params.logprobs is not None:
            tokens, entries = list(sample.tokens), list(sample.logprobs)
            if echo:
                tokens, entries = [*generation.request.prompt, *tokens], [*generation.prompt_logprobs, *entries]
            logprobs = logprobs_of(self.server.tokenizer, tokens, entries, 0)
        return {
            "index": number * self.params.n + k,
            "text": echo + sample.text,
            "logprobs": logprobs,
            "finish_reason": sample.finish_reason,
        }

    async def events(self, usage: bool) -> AsyncIterator[bytes]:
        start, end = self._template(usage)
        offsets: dict[int, int] = {}
        async for number, pieces in merged(self.generations):
            parts = []
            for piece in pieces:
                if piece.error is not None:
                    raise piece.error
                index = number * self.params.n + piece.sample
                text, first = piece.text, index not in offsets
                if first and self.echoes:
                    text = self.echoes[number] + text
                logprobs = b"null"
                if self.params.logprobs is not None:
                    logprobs = encode(self._stream_logprobs(number, piece, first, offsets.get(index, 0)))
                offsets[index] = offsets.get(index, 0) + len(text)
                reason = encode(piece.finish_reason)
                parts.append(
                    b'%s%s,"index":%d,"logprobs":%s,"finish_reason":%s%s'
                    % (start, encode(text), index, logprobs, reason, end)
                )
            yield b"".join(parts)
        if usage:
            yield event(encode({**self._head(), "choices": [], "usage": usage_of(self.generations)}))
        yield DONE

    def _stream_logprobs(self, number: int, piece: Piece, first: bool, offset: int) -> dict[str, Any]:
        tokens, entries = list(piece.tokens), list(piece.logprobs)
        if first and self.echoes:
            generation = self.generations[number]
            tokens, entries = [*generation.request.prompt, *tokens], [*generation.prompt_logprobs, *entries]
        return logprobs_of(self.server.tokenizer, tokens, entries, offset)

    def _template(self, usage: bool) -> tuple[bytes, bytes]:
        """What all events of an answer have in common, around the text."""
        head = encode(self._head())[:-1]
        return b"data: " + head + b',"choices":[{"text":', (b'}],"usage":null}\n\n' if usage else b"}]}\n\n")


def logprobs_of(
    tokenizer: Tokenizer, tokens: list[TokenId], entries: list[tuple[Logprob, ...]], offset: int
) -> dict[str, Any]:
    """OpenAI's four lists. An entry holds the token's own value first, then the alternatives; it is empty for the first
    token of a prompt."""
    texts = [tokenizer.decode([token], continuing=True) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    top = [
        {tokenizer.decode([one.token], continuing=True): one.logprob for one in reversed(entry)} if entry else None
        for entry in entries
    ]
    return {
        "tokens": texts,
        "token_logprobs": [entry[0].logprob if entry else None for entry in entries],
        "top_logprobs": top,
        "text_offset": offsets,
    }
