"""Text to token ids, and what else takes long, in threads: the event loop is held up for milliseconds only.

Knows the tokenizer. What holds the interpreter's lock is Python, which gives it up every few milliseconds; the
library's encoder does not hold it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from plait.server.errors import FieldError
from plait.tokenizer.requests import Requests
from plait.tokenizer.tokenizer import Tokenizer
from plait.types import ChatMessage, SamplingParams, TokenId

SHORT = 4096
"""Characters that are encoded at once: under a millisecond."""
MANY = 16
"""Prompts after each of which others may have a turn."""
T = TypeVar("T")


class Prompts:
    """Makes prompts. `context` is what fits, in tokens."""

    def __init__(self, tokenizer: Tokenizer, context: Callable[[], int]) -> None:
        self.tokenizer = tokenizer
        self.requests = Requests(tokenizer)
        self._context = context
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokenize")

    async def encode(self, text: str, special: bool = True, parse_special: bool = True) -> tuple[TokenId, ...]:
        """Raises `PromptTooLongError` for a text that cannot fit whatever its tokens are: it is not even read."""
        self.requests.check_length(text, self._context())
        return await self._run(len(text), lambda: tuple(self.tokenizer.encode(text, special, parse_special)))

    async def chat(
        self, messages: Sequence[ChatMessage], prefill: bool, tools: object, variables: dict[str, object]
    ) -> tuple[str, tuple[TokenId, ...]]:
        """Text and ids of a conversation, ready for the answer; with `prefill`, for the rest of the last message."""
        size = _size(messages) + len(msgspec.json.encode((tools, variables)))
        return await self._run(size, lambda: self._render(messages, prefill, tools, variables))

    def _render(
        self, messages: Sequence[ChatMessage], prefill: bool, tools: object, variables: dict[str, object]
    ) -> tuple[str, tuple[TokenId, ...]]:
        extra: dict[str, Any] = {**variables, **({"tools": tools} if tools else {})}
        turns = messages[:-1] if prefill else messages
        text = self.tokenizer.render_chat(turns, **extra)
        begun = messages[-1].content if prefill else ""
        self.requests.check_length(text + begun, self._context())
        ids = self.tokenizer.encode_rendered(text)
        if prefill:
            text += begun
            ids += self.tokenizer.encode(begun, add_special=False, parse_special=False)
        return text, tuple(ids)

    async def decode(self, ids: Sequence[TokenId]) -> str:
        """Raises `TokenizerError` for an id outside the vocabulary."""
        return await self._run(len(ids), lambda: self.tokenizer.decode(ids))

    async def several(self, given: str | list[Any], param: str, most: int) -> list[tuple[str, tuple[TokenId, ...]]]:
        """(text, ids) of each prompt in a text, a list of texts, a list of ids, or a list of such lists; the text of a
        prompt that came as ids is empty. Raises `FieldError`."""
        single = isinstance(given, str) or (given and isinstance(given[0], int))
        prompts: list[Any] = [given] if single else list(given)
        if not prompts or prompts == [[]]:
            raise FieldError(f"the {param} is empty; give text, or a list of token ids", param)
        if len(prompts) > most:
            raise FieldError(f"there are {len(prompts)} prompts; send at most {most} at once", param)
        found = list[tuple[str, tuple[TokenId, ...]]]()
        spent = 0
        for prompt in prompts:
            spent += SHORT // MANY + len(prompt) if isinstance(prompt, (str, list)) else 0
            if spent > SHORT:
                await asyncio.sleep(0)
                spent = 0
            if isinstance(prompt, str):
                found.append((prompt, await self.encode(prompt)))
            elif isinstance(prompt, list):
                found.append(("", await self.checked(prompt, param)))
            else:
                raise FieldError(f"{param} is text, a list of texts, or lists of token ids", param)
        return found

    async def checked(self, ids: Sequence[Any], param: str = "prompt") -> tuple[TokenId, ...]:
        """Raises `FieldError` for what is no id of the vocabulary, `PromptTooLongError` for more than can fit."""
        self.requests.check_count(len(ids), self._context())
        return await self._run(len(ids), lambda: self._checked(ids, param))

    def _checked(self, ids: Sequence[Any], param: str) -> tuple[TokenId, ...]:
        size = self.tokenizer.vocab_size
        for token in ids:
            if not isinstance(token, int) or isinstance(token, bool):
                raise FieldError("a prompt has something else among its token ids; they are whole numbers", param)
            if not 0 <= token < size:
                raise FieldError(f"token id {token} is not in the vocabulary of {size}", param)
        return tuple(ids)

    async def breakers(self, params: SamplingParams) -> None:
        """Finds the token ids of sequence breakers, so that `requests.make` has them: it walks over the vocabulary."""
        if params.dry_multiplier:
            await self._run(SHORT + 1, lambda: self.requests.breaker_ids(params))

    async def _run(self, size: int, work: Callable[[], T]) -> T:
        return await self.aside(size, SHORT, work)

    async def aside(self, size: int, short: int, work: Callable[[], T]) -> T:
        """The result of `work`, from a thread if its size is more than `short`."""
        if size <= short:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _size(messages: Sequence[ChatMessage]) -> int:
    """Characters and bytes of a conversation, all that a template may render."""
    return sum(len(message.content) + len(msgspec.json.encode(message.extra)) for message in messages)
