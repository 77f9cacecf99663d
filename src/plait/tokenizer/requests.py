"""From a prompt and its parameters to what an engine takes: the same for every face.

Knows the tokenizer and plain data; knows no engine and no HTTP.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from plait.errors import PromptTooLongError
from plait.tokenizer.tokenizer import Tokenizer
from plait.types import EngineRequest, SamplingParams, TokenId

MARGIN = 4
"""Normalisation may shorten a text before it becomes tokens; hardly to a quarter."""
REMEMBERED = 16
"""Sets of sequence breakers whose token ids are kept: each is a walk over the vocabulary."""


class Requests:
    """Makes requests for one model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids_containing = lru_cache(maxsize=REMEMBERED)(tokenizer.ids_containing)

    def check_length(self, text: str, context: int) -> None:
        """Raises `PromptTooLongError` for a text that cannot fit into `context` tokens whatever its tokens are: it need
        not even be read."""
        room = MARGIN * context
        if len(text) <= room:  # the longest token is a walk over the vocabulary, which most texts need not wait for
            return
        if len(text) > room * self._tokenizer.longest_token:
            raise PromptTooLongError(
                f"the prompt has {len(text)} characters, more than a context of {context} tokens can hold; "
                "shorten it, or give a larger --ctx-size"
            )

    def check_count(self, tokens: int, context: int) -> None:
        """The same for a prompt of ids."""
        if tokens > context:
            raise PromptTooLongError(
                f"the prompt has {tokens} tokens, more than a context of {context} can hold; "
                "shorten it, or give a larger --ctx-size"
            )

    def breaker_ids(self, params: SamplingParams) -> tuple[tuple[TokenId, ...], ...]:
        """What DRY takes for the end of a repetition."""
        return self._ids_containing(tuple(params.dry_sequence_breakers)) if params.dry_multiplier else ()

    def make(self, request_id: str, prompt: Sequence[TokenId], params: SamplingParams) -> EngineRequest:
        """The request: with a seed, with the ids that end it, and with those of the sequence breakers."""
        if params.seed is None:
            params = replace(params, seed=secrets.randbits(63))
        # A grammar ends where it is complete, which the model says with its end token.
        ends = frozenset() if params.ignore_eos and params.grammar is None else self._tokenizer.eog_ids
        return EngineRequest(
            request_id=request_id,
            prompt=tuple(prompt),
            sampling=params,
            stop_token_ids=frozenset(params.stop_token_ids) | ends,
            dry_breaker_ids=self.breaker_ids(params),
        )
