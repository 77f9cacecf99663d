"""POST /completion and /infill, as llama.cpp's server has them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from plait.server.bodies import refuse
from plait.server.context import Server
from plait.server.errors import FieldError
from plait.server.fields import sampling_params
from plait.server.foreign import LLAMA_CPP, refuse_foreign, refuse_unequal
from plait.server.generation import Generation, Piece
from plait.server.grammars import own_grammar
from plait.server.leaving import unless_gone
from plait.server.merge import Whole, collected
from plait.server.native.bodies import CompletionBody, NativeBody
from plait.server.replies import encode, reply, spelled
from plait.server.sse import event, stream_of
from plait.server.usage import served, timings_of
from plait.types import Logprob, SamplingParams, TokenId

DEFAULTS = SamplingParams()
MAX_PARTS = 4096


async def completion(server: Server, request: Request) -> Response:
    """POST /completion."""
    body = await server.work(request, CompletionBody)
    prompt = await _prompt(server, body.prompt)
    return await answer(server, request, body, prompt, body.prompt if isinstance(body.prompt, str) else "")


async def _prompt(server: Server, given: Any) -> tuple[TokenId, ...]:
    """Text, or a list of texts and ids mixed."""
    if isinstance(given, str):
        return await server.prompts.encode(given)
    ids: list[TokenId] = []
    if all(isinstance(part, int) for part in given):
        return await server.prompts.checked(given)
    if len(given) > MAX_PARTS:
        raise FieldError(f"a prompt has {len(given)} texts and ids mixed; give at most {MAX_PARTS}", "prompt")
    for part in given:
        if isinstance(part, str):
            ids += await server.prompts.encode(part, special=not ids)
        elif isinstance(part, int) and not isinstance(part, bool):
            ids += await server.prompts.checked([part])
        else:
            raise FieldError("a prompt is text, or a list of texts and token ids; send one prompt at a time", "prompt")
    return tuple(ids)


async def answer(
    server: Server, request: Request, body: NativeBody, prompt: tuple[TokenId, ...], text: str
) -> Response:
    if body.n not in (None, 1):
        refuse(body.n, "n", "use /v1/completions for several samples")
    refuse_foreign(body, LLAMA_CPP)
    refuse_unequal(body, "n_predict", "max_tokens")
    params = await _params(server, body)
    await server.prompts.breakers(params)
    generation = server.submit(request, prompt, params, body.plait, cache=body.cache_prompt is not False, logged=text)
    answer = _Answer(server, generation, body, text)
    if body.stream:
        return await unless_gone(request, stream_of(answer.events(), generation.abort))
    return reply(answer.whole((await unless_gone(request, collected([generation])))[0][0]))


async def _params(server: Server, body: NativeBody) -> SamplingParams:
    grammar = await own_grammar(body)
    bound = "max_tokens" if body.n_predict is None else "n_predict"
    most = getattr(body, bound)
    return sampling_params(
        body,
        DEFAULTS,
        server.tokenizer.vocab_size,
        grammar,
        max_tokens=None if most in (None, -1, -2) else most,
        logprobs=body.n_probs or None,
        names={"logprobs": "n_probs", "max_tokens": bound},
    )


@dataclass(slots=True)
class _Answer:
    server: Server
    generation: Generation
    body: NativeBody
    prompt: str
    has_new_line: bool = False

    def whole(self, sample: Whole) -> dict[str, Any]:
        self.has_new_line = "\n" in sample.text
        found = self._end(sample.finish_reason, sample.stop_string)
        found |= {"content": sample.text, "tokens": sample.tokens if self.body.return_tokens else []}
        if self.body.n_probs:
            found["completion_probabilities"] = self._probabilities(sample.tokens, sample.logprobs)
        return found

    async def events(self) -> AsyncIterator[bytes]:
        while pieces := await self.generation.pieces():
            yield b"".join(self._event(piece) for piece in pieces)

    def _event(self, piece: Piece) -> bytes:
        if piece.error is not None:
            raise piece.error
        self.has_new_line |= "\n" in piece.text
        found: dict[str, Any] = {"index": 0, "content": piece.text, "tokens": piece.tokens, "stop": piece.final}
        found["id_slot"] = self.body.id_slot or 0
        found["tokens_predicted"] = self.generation.usage.generated_tokens
        found["tokens_evaluated"] = self.generation.usage.prompt_tokens
        if self.body.n_probs and piece.tokens:
            found["completion_probabilities"] = self._probabilities(piece.tokens, piece.logprobs)
        if self.body.timings_per_token:
            found["timings"] = timings_of(self.generation.usage)
        if piece.final:
            found = {**self._end(piece.finish_reason, self.generation.stop_string(0)), **found}
        return event(encode(found))

    def _end(self, reason: str | None, stop: str | None) -> dict[str, Any]:
        usage, sampling = self.generation.usage, self.generation.request.sampling
        kind = "limit" if reason == "length" else "word" if stop else "eos" if reason == "stop" else "none"
        return {
            "index": 0,
            "id_slot": self.body.id_slot or 0,
            "stop": True,
            "model": self.server.model,
            "prompt": self.prompt,
            "stop_type": kind,
            "stopping_word": stop or "",
            "truncated": False,
            "has_new_line": self.has_new_line,
            "tokens_predicted": usage.generated_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "tokens_cached": usage.cached_tokens,
            "generation_settings": settings_of(sampling),
            "timings": timings_of(usage),
            "plait": served(usage),
        }

    def _probabilities(
        self, tokens: list[TokenId] | tuple[TokenId, ...], entries: list[tuple[Logprob, ...]] | Any
    ) -> list[dict[str, Any]]:
        return [
            {**self._spelled(Logprob(token, entry[0].logprob)), "top_logprobs": [self._spelled(e) for e in entry[1:]]}
            for token, entry in zip(tokens, entries, strict=False)
        ]

    def _spelled(self, one: Logprob) -> dict[str, Any]:
        return {"id": one.token, **spelled(self.server.tokenizer, one)}


def settings_of(params: SamplingParams) -> dict[str, Any]:
    """llama.cpp's generation_settings."""
    found = asdict(params)
    grammar = found.pop("grammar")
    return {
        **found,
        "n_predict": -1 if params.max_tokens is None else params.max_tokens,
        "n_probs": params.logprobs or 0,
        "grammar": grammar["source"] if grammar else "",
    }
