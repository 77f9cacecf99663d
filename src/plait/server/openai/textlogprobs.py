"""Log-probabilities as /v1/completions has them: four lists, whose offsets count characters of the text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from plait.tokenizer.tokenizer import Tokenizer
from plait.types import Logprob, TokenId


class Offsets:
    """Where each token of one sample begins in its text, from `start` on. What is held back, for the rest of a
    character or of a stop string, moves none of them; a token that is not shown takes no room."""

    def __init__(self, tokenizer: Tokenizer, start: int) -> None:
        self._decoder = tokenizer.stream_decoder(skip_special=True, continuing=True)
        self._at = start

    def push(self, token: TokenId) -> int:
        """The offset of the next token."""
        begins = self._at
        self._at += len(self._decoder.push(token))
        return begins


def echo_offsets(tokenizer: Tokenizer, prompt: Sequence[TokenId], echo: str) -> list[int]:
    """Where each token of a prompt begins in its text. The begin token is in that only where the prompt came as ids."""
    decoder, at, found = tokenizer.stream_decoder(), 0, list[int]()
    for number, token in enumerate(prompt):
        found.append(min(at, len(echo)))
        added = number == 0 and token == tokenizer.bos_id and not echo.startswith(tokenizer.token_text(token))
        at += 0 if added else len(decoder.push(token))
    return found


def four_lists(
    tokenizer: Tokenizer, tokens: Sequence[TokenId], entries: Iterable[tuple[Logprob, ...]], offsets: Sequence[int]
) -> dict[str, Any]:
    """OpenAI's four lists. An entry holds the token's own value first, then the alternatives; it is empty for the first
    token of a prompt."""
    found = list(entries)
    return {
        "tokens": [_text(tokenizer, token) for token in tokens],
        "token_logprobs": [entry[0].logprob if entry else None for entry in found],
        "top_logprobs": [
            {_text(tokenizer, one.token): one.logprob for one in reversed(entry)} if entry else None for entry in found
        ],
        "text_offset": list(offsets),
    }


def _text(tokenizer: Tokenizer, token: TokenId) -> str:
    """Parts of characters are spelled as OpenAI does, or they would be one key: bytes:\\xe2\\x80."""
    data = tokenizer.token_bytes(token)
    try:
        data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
    return tokenizer.decode([token], continuing=True)
