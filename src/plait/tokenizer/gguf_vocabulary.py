"""Reads a `Vocabulary` from GGUF metadata: arrays, token types, and the special ids as llama.cpp collects them.

Knows the keys `tokenizer.ggml.*` and their defaults; does not know how text is cut and merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from plait.errors import TokenizerError
from plait.tokenizer.fim import FimToken, spelled_in
from plait.tokenizer.vocabulary import (
    BYTE,
    CONTROL,
    LSTRIP,
    NORMAL,
    RSTRIP,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Spelling,
    Texts,
    Vocabulary,
)
from plait.types import TokenId

T = TypeVar("T")

# GGUF's token types 1 to 6; everything else (0, and what is not defined) has no attribute at all.
_ATTRIBUTE_OF_TYPE = bytes([0, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE]).ljust(256, b"\0")

# Texts that end a generation wherever they occur in a vocabulary.
EOG_TEXTS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|observation|>",  # GLM-4 writes it after a call; its GGUF files name <|user|> alone
)

# Keys of the fill-in-the-middle tokens; the last of them counts. A file need not have any.
_FIM_KEYS: Mapping[FimToken, tuple[str, ...]] = {
    FimToken.PREFIX: ("fim_pre_token_id", "prefix_token_id"),
    FimToken.SUFFIX: ("fim_suf_token_id", "suffix_token_id"),
    FimToken.MIDDLE: ("fim_mid_token_id", "middle_token_id"),
    FimToken.PAD: ("fim_pad_token_id",),
    FimToken.REPOSITORY: ("fim_rep_token_id",),
    FimToken.FILE: ("fim_sep_token_id",),
}
_FIM_THAT_END = (FimToken.PAD, FimToken.REPOSITORY, FimToken.FILE)

_HARMONY_TEXTS = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
_LSTRIP_MASK_PRES = ("jina-v2-de", "jina-v2-es", "jina-v2-code")


@dataclass(frozen=True, slots=True)
class Metadata:
    """Typed access to the keys `tokenizer.ggml.NAME` of `values`; errors name `file` and the key."""

    file: str
    values: Mapping[str, object]

    def error(self, name: str, reason: str) -> TokenizerError:
        return TokenizerError(f"{self.file}: tokenizer.ggml.{name}: {reason}")

    def get(self, name: str, kind: type[T]) -> T | None:
        value = self.values.get(f"tokenizer.ggml.{name}")
        if isinstance(value, np.generic):
            value = value.item()
        if value is not None and not isinstance(value, kind):
            raise self.error(name, f"is {value!r}; a value of type {kind.__name__} was expected")
        return value

    def array(self, name: str) -> list[object] | None:
        value = self.values.get(f"tokenizer.ggml.{name}")
        if value is None:
            return None
        if isinstance(value, np.ndarray):
            items: list[object] = value.tolist()
            return items
        if isinstance(value, (list, tuple)):
            return list(value)
        raise self.error(name, f"is of type {type(value).__name__}; an array was expected")

    def strings(self, name: str) -> list[str] | None:
        items = self.array(name)
        if items is None:
            return None
        for index, item in enumerate(items):
            if not isinstance(item, str):
                raise self.error(name, f"element {index} is {item!r}; a string was expected")
        return items  # type: ignore[return-value]  # just looked at each of them

    def numbers(self, name: str, count: int) -> list[float] | None:
        """An array with one number for each of `count` tokens."""
        items = self.array(name)
        if items is None:
            return None
        if len(items) != count:
            raise self.error(name, f"has {len(items)} elements for {count} tokens; it must have one for each")
        if not all(isinstance(item, (int, float)) for item in items):
            raise self.error(name, "holds values that are not numbers")
        return items  # type: ignore[return-value]


def read_vocabulary(meta: Metadata, spelling: Spelling, strips_space: bool) -> tuple[Vocabulary, dict[str, TokenId]]:
    """The vocabulary and its inverse, text to id. Raises `TokenizerError` for arrays that cannot be right."""
    texts = _read_texts(meta)
    ids = {text: token for token, text in enumerate(texts)}
    if len(ids) != len(texts):
        again = next(text for token, text in enumerate(texts) if ids[text] != token)
        raise meta.error("tokens", f"'{again}' occurs more than once; every token must be different")
    attributes = _read_attributes(meta, len(texts))
    is_sentencepiece = meta.get("model", str) == "llama"
    bos = _special_id(meta, "bos_token_id", len(texts), 1 if is_sentencepiece else None)
    eos = _special_id(meta, "eos_token_id", len(texts), 2 if is_sentencepiece else None)
    fim = _collect_fim(meta, ids, attributes)
    eog = _collect_eog(meta, texts, ids, attributes, eos, fim)
    _set_strips(meta, ids, attributes)
    vocabulary = Vocabulary(Texts(texts), bytes(attributes), spelling, bos, eos, eog, strips_space, fim=fim)
    return vocabulary, ids


def _read_texts(meta: Metadata) -> list[str]:
    texts = meta.strings("tokens")
    if not texts:
        raise meta.error("tokens", "is missing or empty: the file holds no vocabulary")
    for token in [token for token, text in enumerate(texts) if not text]:
        texts[token] = f"[EMPTY_{token}]"
    return texts


def _read_attributes(meta: Metadata, count: int) -> bytearray:
    types = meta.numbers("token_type", count)
    if types is None:
        return bytearray([NORMAL]) * count
    numbers = [kind if isinstance(kind, int) and 0 <= kind < 256 else 0 for kind in types]
    return bytearray(bytes(numbers).translate(_ATTRIBUTE_OF_TYPE))


def _special_id(meta: Metadata, name: str, count: int, default: TokenId | None = None) -> TokenId | None:
    """An id outside the vocabulary counts as not given. llama.cpp's default for `gpt2` files, 11, fits Falcon alone."""
    token = meta.get(name, int)
    if token is not None and 0 <= token < count:
        return token
    return default if default is not None and default < count else None


def _collect_fim(meta: Metadata, ids: Mapping[str, TokenId], attributes: bytearray) -> dict[FimToken, TokenId]:
    """By their keys, or by their texts. Marks those found by text as control tokens, whatever the file calls them."""
    found = spelled_in(ids)
    for kind, keys in _FIM_KEYS.items():
        given = [token for key in keys if (token := _special_id(meta, key, len(attributes))) is not None]
        if given:
            found[kind] = given[-1]
        elif kind in found:
            attributes[found[kind]] |= CONTROL
    return found


def _collect_eog(
    meta: Metadata,
    texts: list[str],
    ids: Mapping[str, TokenId],
    attributes: bytearray,
    eos: TokenId | None,
    fim: Mapping[FimToken, TokenId],
) -> frozenset[TokenId]:
    """Ids that end a generation. Marks tokens found by their text as control tokens, whatever the file calls them."""
    eog = {fim[kind] for kind in _FIM_THAT_END if kind in fim}
    for text in EOG_TEXTS:
        if text in ids:
            eog.add(ids[text])
            attributes[ids[text]] |= CONTROL
    for text in _HARMONY_TEXTS:
        if text in ids:
            attributes[ids[text]] = USER_DEFINED
    eog |= {
        token for key in ("eot_token_id", "eom_token_id") if (token := _special_id(meta, key, len(texts))) is not None
    }
    if eos is not None:
        eog.add(eos)
    _drop_false_ends(texts, ids, attributes, eog)
    return frozenset(eog)


def _drop_false_ends(texts: list[str], ids: Mapping[str, TokenId], attributes: bytearray, eog: set[TokenId]) -> None:
    """In some families <|end|> or </s> only ends a part of an answer."""
    ends = {texts[token] for token in eog}
    calls = "<|call|>" in ends or "<|calls|>" in ends
    if "<|end|>" in ends and calls and ("<|return|>" in ends or "<|flush|>" in ends):
        eog.discard(ids["<|end|>"])
        attributes[ids["<|end|>"]] = USER_DEFINED
    if "</s>" in ends and ("<|tool_response>" in ends or "<|plamo:eos|>" in ends):
        eog.discard(ids["</s>"])
        attributes[ids["</s>"]] = NORMAL


def _set_strips(meta: Metadata, ids: Mapping[str, TokenId], attributes: bytearray) -> None:
    """White space that special tokens swallow. The format cannot say it: llama.cpp goes by the model's name."""
    name = str(meta.values.get("general.name", "")).lower()
    pre = meta.get("pre", str) or ""
    if any(part in pre for part in _LSTRIP_MASK_PRES):
        if "<mask>" in ids:
            attributes[ids["<mask>"]] |= LSTRIP
    elif "phi-3" in name or "phi3" in name:
        for token, attribute in enumerate(attributes):
            if attribute & (CONTROL | USER_DEFINED | UNKNOWN):
                attributes[token] |= RSTRIP
        if "</s>" in ids:
            attributes[ids["</s>"]] |= RSTRIP
        for text in ("<unk>", "<s>", "<|endoftext|>"):
            if text in ids:
                attributes[ids[text]] &= ~RSTRIP
    elif "modern-bert" in name and "[MASK]" in ids:
        attributes[ids["[MASK]"]] |= LSTRIP
