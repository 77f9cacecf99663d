"""Byte-pair merging by ranked merges, run by the `tokenizers` library, for GGUF files of the kinds gpt2 and gemma4.

Knows how to build the library's tokenizer from a vocabulary, merges and a `PreTokenizer`. Special tokens are cut out
before; nothing here looks for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from plait.errors import TokenizerError
from plait.tokenizer.library import encoded
from plait.tokenizer.pre import PreTokenizer, Split, Whole
from plait.tokenizer.vocabulary import LETTER_OF_BYTE, SPACE_MARK
from plait.types import TokenId

if TYPE_CHECKING:
    import tokenizers
    from tokenizers.pre_tokenizers import PreTokenizer as LibraryPreTokenizer

_LINES = re.compile(r"\n+|[^\n]+")
_UNSPELLABLE = "\ue000plait-unspellable"


class BpeMerger:
    """`ids` maps text to id; `merges` are pairs in order of rank, written "left right"."""

    def __init__(self, ids: Mapping[str, TokenId], merges: Sequence[str], pre: PreTokenizer, file: str) -> None:
        self._pre = pre
        # Only runs of newlines are ever looked up here; the library has a vocabulary of its own.
        self._newlines = {text: token for text, token in ids.items() if not text.strip("\n")}
        self._count = len(ids)
        self._has_gaps = pre.byte_level and any(letter not in ids for letter in LETTER_OF_BYTE.values())
        self._has_gaps |= not pre.byte_level and any(f"<0x{byte:02X}>" not in ids for byte in range(256))
        self._library = self._build(ids, merges, file)

    def _build(self, ids: Mapping[str, TokenId], merges: Sequence[str], file: str) -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer, models

        pairs = _pairs(merges, file)
        vocabulary = dict(ids)
        if self._has_gaps:  # what has no token keeps its place while merging, and is dropped afterwards
            vocabulary[_UNSPELLABLE] = self._count
        try:
            model = models.BPE(
                vocabulary,
                pairs,
                unk_token=_UNSPELLABLE if self._has_gaps else None,
                byte_fallback=not self._pre.byte_level,
                ignore_merges=self._pre.whole is Whole.ALWAYS,
            )
        except Exception as error:  # the library raises plain Exception
            raise TokenizerError(f"{file}: tokenizer.ggml.merges: {_first_bad(pairs, ids) or error}") from None
        library = Tokenizer(model)
        if self._pre.byte_level:
            library.pre_tokenizer = _library_pre_tokenizer(self._pre.splits)
        return library

    def encode(self, text: str) -> list[TokenId]:
        if not self._pre.byte_level:
            text = text.replace(" ", SPACE_MARK)
        if self._pre.whole is not Whole.NEWLINES:
            return self._run(text)
        ids: list[TokenId] = []
        for line in _LINES.findall(text):
            whole = self._newlines.get(line)
            ids.extend(self._run(line) if whole is None else (whole,))
        return ids

    def _run(self, text: str) -> list[TokenId]:
        ids = encoded(self._library, text)
        return [token for token in ids if token < self._count] if self._has_gaps else ids


def _pairs(merges: Sequence[str], file: str) -> list[tuple[str, str]]:
    """Each cut at the first space that is not its first character."""
    pairs: list[tuple[str, str]] = []
    append = pairs.append
    try:
        for merge in merges:  # hundreds of thousands: everything in locals
            cut = merge.index(" ", 1)
            append((merge[:cut], merge[cut + 1 :]))
    except ValueError:
        rank = len(pairs)
        reason = f"merge {rank} is {merges[rank]!r}; two tokens with a space between are expected"
        raise TokenizerError(f"{file}: tokenizer.ggml.merges: {reason}") from None
    return pairs


def _first_bad(pairs: Sequence[tuple[str, str]], ids: Mapping[str, TokenId]) -> str | None:
    for rank, (left, right) in enumerate(pairs):
        for text in (left, right, left + right):
            if text not in ids:
                return (
                    f"merge {rank}, {left!r} with {right!r}, needs the token {text!r}, which is not in the vocabulary"
                )
    return None


def _library_pre_tokenizer(splits: Sequence[Split]) -> LibraryPreTokenizer:
    from tokenizers import Regex, pre_tokenizers

    steps: list[LibraryPreTokenizer] = [
        pre_tokenizers.Split(Regex(split.pattern), "merged_with_previous" if split.join_previous else "isolated")
        for split in splits
    ]
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
