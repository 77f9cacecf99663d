"""What each token id is: its text, its bytes, its attributes, and which ids begin and end a text.

Common to every source: readers of GGUF and tokenizer.json build a `Vocabulary`. Knows nothing of files or merging.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import overload

from plait.errors import TokenizerError
from plait.tokenizer.fim import FimToken
from plait.types import TokenId

# Attributes of a token: one byte, several bits may be set.
UNKNOWN = 1
UNUSED = 2
NORMAL = 4
CONTROL = 8
USER_DEFINED = 16
BYTE = 32
LSTRIP = 64  # swallows white space before it
RSTRIP = 128  # swallows white space after it

SPACE_MARK = "\u2581"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling(StrEnum):
    """How the text of a token spells its bytes."""

    BYTE_LEVEL = "byte-level"  # each character stands for one byte, as GPT-2 has it
    SPACE_MARK = "space-mark"  # UTF-8, with U+2581 for a space, and <0xXX> for a byte


def _byte_letters() -> dict[int, int]:
    """Code point to byte value: printable Latin-1 stands for itself, the other 68 bytes are U+0100 and up."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(plain))
    return {byte: byte for byte in plain} | {256 + n: byte for n, byte in enumerate(others)}


BYTE_OF_LETTER = _byte_letters()
LETTER_OF_BYTE = {byte: chr(letter) for letter, byte in BYTE_OF_LETTER.items()}


class Texts(Sequence[str]):
    """Texts in one piece of memory, each made anew when it is asked for: a list of 128,000 takes ten times as much."""

    def __init__(self, texts: Iterable[str]) -> None:
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._bytes = b"".join(parts)
        self._ends = array("Q", accumulate(map(len, parts), initial=0))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._bytes[self._ends[place] : self._ends[place + 1]].decode("utf-8", "surrogatepass")


@dataclass(slots=True)
class Vocabulary:
    """`texts[id]` as the file has it; `attributes[id]` a set of the bits above. `verbatim` bits say which tokens' text
    is their bytes as it stands. `strips_space`: decoding drops the one space that encoding put before the text."""

    texts: Sequence[str]
    attributes: bytes
    spelling: Spelling
    bos_id: TokenId | None
    eos_id: TokenId | None
    eog_ids: frozenset[TokenId]
    strips_space: bool = False
    verbatim: int = CONTROL | UNKNOWN | USER_DEFINED
    hidden: int = CONTROL | UNKNOWN
    fim: Mapping[FimToken, TokenId] = field(default_factory=dict)
    whole: dict[TokenId, str | None] = field(default_factory=dict)
    """Of tokens looked at so far by `look`: the text of those that spell whole characters and are not hidden."""
    _pieces: dict[TokenId, bytes] = field(default_factory=dict)

    def check_id(self, token: TokenId) -> None:
        if not 0 <= token < len(self.texts):
            raise TokenizerError(f"token id {token} is outside the vocabulary; ids go from 0 to {len(self.texts) - 1}")

    def is_special(self, token: TokenId) -> bool:
        self.check_id(token)
        return bool(self.attributes[token] & self.hidden)

    def piece(self, token: TokenId) -> bytes:
        """The bytes that `token` adds to a text."""
        known = self._pieces.get(token)
        if known is None:
            self.check_id(token)
            known = self._pieces[token] = self._spell(self.texts[token], self.attributes[token])
        return known

    def look(self, token: TokenId) -> None:
        """Enters a token of the vocabulary in `whole`."""
        text = None
        if not self.attributes[token] & self.hidden:
            try:
                text = self.piece(token).decode()
            except UnicodeDecodeError:
                text = None
        self.whole[token] = text

    def _spell(self, text: str, attribute: int) -> bytes:
        if attribute & self.verbatim:
            return utf8(text)
        if attribute & NORMAL:
            if self.spelling is Spelling.BYTE_LEVEL:
                return _from_byte_letters(text)
            return utf8(text.replace(SPACE_MARK, " "))
        if attribute & BYTE:
            value = byte_value(text)
            if value is None:
                raise TokenizerError(f"token '{text}' is of type byte, but its text is not of the form <0xXX>")
            return bytes((value,))
        return b""  # unused and undefined tokens spell nothing

    def fingerprint(self, more: str) -> str:
        """SHA-256 (hexadecimal) of everything that decides how ids spell text, and of `more`."""
        ids = (self.bos_id, self.eos_id, sorted(self.eog_ids), len(self.texts))
        spelling = (self.spelling.value, self.strips_space, self.verbatim, self.hidden)
        return digest(repr((ids, spelling, more)), self.attributes, *self.texts)


def digest(*parts: str | bytes) -> str:
    """SHA-256 (hexadecimal) of texts and bytes in order; each counts with its own length."""
    sha = hashlib.sha256(repr([len(part) for part in parts]).encode())
    sha.update(b"".join([utf8(part) if isinstance(part, str) else part for part in parts]))
    return sha.hexdigest()


def utf8(text: str) -> bytes:
    """UTF-8, where bytes that a file had wrongly (kept as lone surrogates) come back as they were."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def byte_value(text: str) -> int | None:
    """The byte that a token such as `<0x0A>` stands for."""
    match = _BYTE_TOKEN.fullmatch(text)
    return int(match[1], 16) if match else None


def _from_byte_letters(text: str) -> bytes:
    try:
        return bytes([BYTE_OF_LETTER[ord(letter)] for letter in text])
    except KeyError:  # a text with other characters is plain text
        return utf8(text)
