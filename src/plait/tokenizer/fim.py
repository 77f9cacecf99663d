"""The tokens of models that fill in the middle of a text, by the spellings that vocabularies have for them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from plait.types import TokenId


class FimToken(StrEnum):
    """What a token stands before: the text before the gap, the text behind it, what goes in between; padding, the name
    of a repository, the name of a file."""

    PREFIX = "prefix"
    SUFFIX = "suffix"
    MIDDLE = "middle"
    PAD = "pad"
    REPOSITORY = "repository"
    FILE = "file"


FIM_TEXTS: Mapping[FimToken, tuple[str, ...]] = {
    FimToken.PREFIX: (
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"),
        *("<|code_prefix|>", "<|prefix|>"),
    ),
    FimToken.SUFFIX: (
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"),
        *("<|code_suffix|>", "<|suffix|>"),
    ),
    FimToken.MIDDLE: (
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"),
        *("<|code_middle|>", "<|middle|>"),
    ),
    FimToken.PAD: ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    FimToken.REPOSITORY: ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    FimToken.FILE: ("<|file_sep|>",),
}
"""As llama.cpp knows them."""


def spelled_in(ids: Mapping[str, TokenId]) -> dict[FimToken, TokenId]:
    """Those that a vocabulary has, by their text; of several the first."""
    found = {kind: [ids[text] for text in texts if text in ids] for kind, texts in FIM_TEXTS.items()}
    return {kind: min(tokens) for kind, tokens in found.items() if tokens}
