"""Reads tokenizer.json and the files beside it in a Hugging Face directory.

The `tokenizers` library encodes, as the file says. Decoding is ours, from the bytes of each token, so that a stream
never splits a character; that covers the byte-level and the SentencePiece-like decoders. Knows the file names and keys
of that ecosystem.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plait.errors import TokenizerError, UnsupportedModelError
from plait.tokenizer.data import SPECIAL, TokenizerData
from plait.tokenizer.fim import spelled_in
from plait.tokenizer.gguf_vocabulary import EOG_TEXTS
from plait.tokenizer.library import encoded
from plait.tokenizer.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    USER_DEFINED,
    Spelling,
    Texts,
    Vocabulary,
    byte_value,
    digest,
)
from plait.types import TokenId

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

TOKENIZER_FILE = "tokenizer.json"


class HuggingFaceEncoder:
    """Encodes as tokenizer.json says. `add_special` runs its post-processor."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._literal: Library | None = None  # takes special tokens for text

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[TokenId]:
        library = self._library if parse_special else self._literally()
        return encoded(library, text, add_special)

    def _literally(self) -> Library:
        # A copy: the switch belongs to the tokenizer, not to the call, and other threads may be encoding.
        if self._literal is None:
            literal = type(self._library).from_str(self._library.to_str())
            literal.encode_special_tokens = True
            self._literal = literal
        return self._literal


@dataclass(frozen=True, slots=True)
class Decoder:
    spelling: Spelling
    strips_space: bool


def from_file(path: Path) -> TokenizerData:
    """From a tokenizer.json, or a directory that holds one. Raises `TokenizerError`, `UnsupportedModelError`."""
    file = path / TOKENIZER_FILE if path.is_dir() else path
    library, text = _open(file)
    decoder = _decoder(file, library)
    vocabulary = _vocabulary(file, library, decoder)
    special = _Config.beside(file).special_texts()
    return TokenizerData(TOKENIZER_FILE, vocabulary, HuggingFaceEncoder(library), digest(text), special)


def _open(file: Path) -> tuple[Library, str]:
    from tokenizers import Tokenizer as Library

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{file}: cannot be read: {error}") from None
    try:
        library = Library.from_str(text)
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"{file}: is no usable tokenizer: {error}") from None
    library.no_truncation()
    library.no_padding()
    return library, text


def _decoder(file: Path, library: Library) -> Decoder:
    """How the file's decoder puts bytes together. Raises for one that does not work token by token."""
    steps = list(_steps(json.loads(library.decoder.__getstate__()))) if library.decoder else []
    kinds = {step.get("type") for step in steps}
    if kinds == {"ByteLevel"}:
        return Decoder(Spelling.BYTE_LEVEL, strips_space=False)
    if kinds and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        metaspace = any(s.get("type") == "Metaspace" and s.get("prepend_scheme") != "never" for s in steps)
        strip = any(s.get("type") == "Strip" and s.get("start") == 1 for s in steps)
        return Decoder(Spelling.SPACE_MARK, strips_space=metaspace or strip)
    name = " + ".join(str(step.get("type")) for step in steps) or "none"
    raise UnsupportedModelError(
        file, f"decoder {name} is not supported; ByteLevel, and those of SentencePiece models are"
    )


def _steps(decoder: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    inner = decoder.get("decoders")
    if isinstance(inner, list):
        for step in inner:
            yield from _steps(step)
    else:
        yield decoder


def _vocabulary(file: Path, library: Library, decoder: Decoder) -> Vocabulary:
    ids: dict[str, TokenId] = library.get_vocab(with_added_tokens=True)
    if not ids:
        raise TokenizerError(f"{file}: holds no tokens")
    texts = [""] * (max(ids.values()) + 1)
    for text, token in ids.items():
        texts[token] = text
    attributes = bytearray([NORMAL]) * len(texts)
    if decoder.spelling is Spelling.SPACE_MARK:
        for byte in range(256):
            token = ids.get(f"<0x{byte:02X}>", -1)
            if token >= 0:
                attributes[token] = BYTE
    for token, added in library.get_added_tokens_decoder().items():
        if byte_value(added.content) is None or decoder.spelling is Spelling.BYTE_LEVEL:
            attributes[token] = CONTROL if added.special else USER_DEFINED
    config = _Config.beside(file)
    eos = config.token(ids, "eos")
    eog = {ids[text] for text in EOG_TEXTS if text in ids} | set(config.eos_ids(len(texts)))
    if eos is not None:
        eog.add(eos)
    bos, spelling = config.token(ids, "bos"), decoder.spelling
    return Vocabulary(
        Texts(texts),
        bytes(attributes),
        spelling,
        bos,
        eos,
        frozenset(eog),
        decoder.strips_space,
        fim=spelled_in(ids),
    )


@dataclass(frozen=True, slots=True)
class _Config:
    """What the neighbours of tokenizer.json say of the special tokens."""

    tokenizer: Mapping[str, object]
    special: Mapping[str, object]
    model: Mapping[str, object]
    generation: Mapping[str, object]

    @staticmethod
    def beside(file: Path) -> _Config:
        names = ("tokenizer_config.json", "special_tokens_map.json", "config.json", "generation_config.json")
        return _Config(*(read_json(file.with_name(name)) for name in names))

    def token(self, ids: Mapping[str, TokenId], name: str) -> TokenId | None:
        for config in (self.tokenizer, self.special):
            text = token_text(config.get(f"{name}_token"))
            if text is not None and text in ids:
                return ids[text]
        for config in (self.generation, self.model):
            token = config.get(f"{name}_token_id")
            first = token[0] if isinstance(token, list) and token else token
            if isinstance(first, int) and 0 <= first < len(ids):
                return first
        return None

    def special_texts(self) -> dict[str, str]:
        """Texts of the special tokens that a template may ask for."""
        found = {f"{name}_token": self.tokenizer.get(f"{name}_token") for name in SPECIAL}
        texts = {key: token_text(value or self.special.get(key)) for key, value in found.items()}
        return {key: text for key, text in texts.items() if text is not None}

    def eos_ids(self, count: int) -> Iterator[TokenId]:
        for config in (self.generation, self.model):
            given = config.get("eos_token_id")
            for token in given if isinstance(given, list) else [given]:
                if isinstance(token, int) and 0 <= token < count:
                    yield token


def token_text(value: object) -> str | None:
    """A token in tokenizer_config.json is a string, or an object with its `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def read_json(file: Path) -> Mapping[str, object]:
    """The object in `file`; empty when there is no such file. Raises `TokenizerError` for a damaged one."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{file}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{file}: a JSON object was expected")
    return value
