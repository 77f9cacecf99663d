"""How the `tokenizers` library is asked for ids, whoever built its tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait.types import TokenId

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

SHORT = 4096
"""Characters that take about a millisecond."""


def encoded(library: Library, text: str, add_special: bool = False) -> list[TokenId]:
    """The ids of a text. A long one is encoded without the interpreter's lock, so that other threads run: only the
    library's call for several texts gives it up."""
    if len(text) <= SHORT:
        ids: list[TokenId] = library.encode(text, add_special_tokens=add_special).ids
    else:
        ids = library.encode_batch_fast([text], add_special_tokens=add_special)[0].ids
    return ids
