"""What a reader of tokenizer files hands over, and a `Tokenizer` is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from plait.tokenizer.vocabulary import Vocabulary
from plait.types import TokenId


class Encoder(Protocol):
    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[TokenId]:
        """The ids of `text`, which is valid Unicode."""
        ...


@dataclass(frozen=True, slots=True)
class TokenizerData:
    """`kind` is for people. `method` is a hash of all that decides, beside the vocabulary, how text is cut, merged and
    surrounded. `special` are texts of further special tokens by the names that templates know them by: pad_token."""

    kind: str
    vocabulary: Vocabulary
    encoder: Encoder
    method: str
    special: Mapping[str, str] = field(default_factory=dict)


SPECIAL = ("unk", "sep", "pad", "cls", "mask")
"""Special tokens beside those that begin and end a text."""
