"""What a reader of tokenizer files hands over: the pieces that a `Tokenizer` is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from plait.tokenizer.vocabulary import Vocabulary
from plait.types import TokenId


class Encoder(Protocol):
    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[TokenId]:
        """The ids of `text`, which is valid Unicode."""
        ...


@dataclass(frozen=True, slots=True)
class TokenizerParts:
    """`kind` is for people. `method` is a hash of all that decides, beside the vocabulary, how text is cut, merged and
    surrounded."""

    kind: str
    vocabulary: Vocabulary
    encoder: Encoder
    method: str
