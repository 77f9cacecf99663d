"""Token ids to text: all at once, or one id at a time without ever splitting a character.

Knows what bytes a token spells; not how text becomes ids.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from plait.tokenizer.vocabulary import Vocabulary
from plait.types import TokenId


def decode(vocabulary: Vocabulary, ids: Iterable[TokenId], skip_special: bool, continuing: bool) -> str:
    """The text of `ids`; bytes that are no UTF-8 become U+FFFD. See `Tokenizer.decode`."""
    piece, hidden, attributes = vocabulary.piece, vocabulary.hidden, vocabulary.attributes
    pieces = [piece(token) for token in ids if not (skip_special and token >= 0 and _has(attributes, token, hidden))]
    text = b"".join(pieces).decode("utf-8", "replace")
    return text[1:] if vocabulary.strips_space and not continuing and text[:1] == " " else text


def _has(attributes: bytes, token: TokenId, bits: int) -> bool:
    return token < len(attributes) and bool(attributes[token] & bits)


NOTHING_HELD = (b"", 0)
"""State of a decoder that has no part of a character."""


class StreamDecoder:
    """Decodes one id at a time. What `push` and `flush` return adds up to `decode` of the same ids."""

    def __init__(
        self, vocabulary: Vocabulary, skip_special: bool, continuing: bool, keep: frozenset[str] = frozenset()
    ) -> None:
        self._vocabulary = vocabulary
        self._skip_special, self._keep = skip_special, keep
        self._at_start = vocabulary.strips_space and not continuing
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._whole = vocabulary.whole
        self._between = not self._at_start  # two characters: nothing of one is held back

    def plain(self, token: TokenId) -> str | None:
        """What `push` would return, where that is quickly said: between two characters, of a token that spells whole
        ones and was seen before. Else None, and nothing has changed."""
        return self._whole.get(token) if self._between else None

    def push(self, token: TokenId) -> str:
        """The characters that `token` completes. Raises `TokenizerError` for an id outside the vocabulary."""
        if self._skip_special and self._vocabulary.is_special(token) and not self._kept(token):
            return ""
        text = self._strip(self._utf8.decode(self._vocabulary.piece(token)))
        self._between = not self._at_start and self._utf8.getstate() == NOTHING_HELD
        if token not in self._whole:
            self._vocabulary.look(token)
        return text

    def flush(self) -> str:
        """The end of the ids: bytes still waiting for the rest of their character become U+FFFD."""
        return self._strip(self._utf8.decode(b"", final=True))

    def _kept(self, token: TokenId) -> bool:
        return bool(self._keep) and self._vocabulary.texts[token] in self._keep

    def _strip(self, text: str) -> str:
        if not self._at_start or not text:
            return text
        self._at_start = False
        return text.removeprefix(" ")
