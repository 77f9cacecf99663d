"""POST /v1/completions: prompts as text or ids, several at once, n samples of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from plait.server.context import Server
from plait.server.errors import FieldError
from plait.server.fields import OPENAI_DEFAULTS, sampling_params
from plait.server.generation import Generation
from plait.server.grammars import own_grammar
from plait.server.leaving import unless_gone
from plait.server.merge import Whole, collected, merged
from plait.server.openai.bodies import CompletionBody, refuse_completion
from plait.server.openai.textlogprobs import Offsets, echo_offsets, four_lists
from plait.server.prompts import MANY, SHORT
from plait.server.replies import encode, reply
from plait.server.sse import DONE, event, stream_of
from plait.server.usage import timings_of, total, usage_of
from plait.types import Logprob, SamplingParams, TokenId

MAX_PROMPTS = 2048
"""And as many answers."""
DEFAULT_MOST = 16
"""OpenAI's; null is the same as nothing."""
UNBOUNDED = -1
"""To the end of the answer, as llama.cpp has it."""


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
    grammar = await own_grammar(body)
    asked = DEFAULT_MOST if body.max_tokens is None else body.max_tokens
    most = None if asked == UNBOUNDED else asked
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
        for number, samples in enumerate(wholes):
            choices += [self._choice(number, k, sample) for k, sample in enumerate(samples)]
        return {**self._head(), "choices": choices, **self._counts()}

    def _counts(self) -> dict[str, Any]:
        usage = total(self.generations)
        return {"usage": usage_of(usage), "timings": timings_of(usage)}

    def _choice(self, number: int, k: int, sample: Whole) -> dict[str, Any]:
        echo = self.echoes[number] if self.echoes else ""
        logprobs = None
        if self.params.logprobs is not None:
            offsets = Offsets(self.server.tokenizer, len(echo))
            logprobs = self._logprobs(number, offsets, sample.tokens, sample.logprobs, first=True)
        return {
            "index": number * self.params.n + k,
            "text": echo + sample.text,
            "logprobs": logprobs,
            "finish_reason": sample.finish_reason,
        }

    async def events(self, usage: bool) -> AsyncIterator[bytes]:
        start, end = self._template(usage)
        offsets: dict[int, Offsets] = {}
        async for number, pieces in merged(self.generations):
            parts = []
            for piece in pieces:
                if piece.error is not None:
                    raise piece.error
                index = number * self.params.n + piece.sample
                text, first = piece.text, index not in offsets
                echo = self.echoes[number] if first and self.echoes else ""
                text = echo + text
                if first:
                    offsets[index] = Offsets(self.server.tokenizer, len(echo))
                logprobs = b"null"
                if self.params.logprobs is not None:
                    logprobs = encode(self._logprobs(number, offsets[index], piece.tokens, piece.logprobs, first))
                reason = encode(piece.finish_reason)
                parts.append(
                    b'%s%s,"index":%d,"logprobs":%s,"finish_reason":%s%s'
                    % (start, encode(text), index, logprobs, reason, end)
                )
            yield b"".join(parts)
        if usage:
            yield event(encode({**self._head(), "choices": [], **self._counts()}))
        yield DONE

    def _logprobs(
        self,
        number: int,
        offsets: Offsets,
        tokens: Sequence[TokenId],
        entries: Sequence[tuple[Logprob, ...]],
        first: bool,
    ) -> dict[str, Any]:
        """Of some tokens of a sample; with the first of them come those of the prompt, if it is echoed."""
        tokenizer, places = self.server.tokenizer, [offsets.push(token) for token in tokens]
        if first and self.echoes:
            generation = self.generations[number]
            prompt = generation.request.prompt
            places = [*echo_offsets(tokenizer, prompt, self.echoes[number]), *places]
            tokens, entries = [*prompt, *tokens], [*generation.prompt_logprobs, *entries]
        return four_lists(tokenizer, tokens, entries, places)

    def _template(self, usage: bool) -> tuple[bytes, bytes]:
        """What all events of an answer have in common, around the text."""
        head = encode(self._head())[:-1]
        return b"data: " + head + b',"choices":[{"text":', (b'}],"usage":null}\n\n' if usage else b"}]}\n\n")
