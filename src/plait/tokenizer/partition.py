"""Cuts a text at the special tokens written out in it, before anything else looks at it.

Longer tokens first, over the whole text, then shorter ones in what is left, as llama.cpp does it. Knows texts, ids and
attributes; not what becomes of the stretches between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from plait.tokenizer.vocabulary import CONTROL, LSTRIP, RSTRIP, UNKNOWN, USER_DEFINED, Vocabulary
from plait.types import TokenId

Fragment: TypeAlias = str | TokenId

_C_SPACE = " \t\n\v\f\r"


class SpecialTokens:
    """The tokens of a vocabulary that are recognised by their text: all of them, or (`parse_special` false) only
    those that are the user's own and no control tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        wanted = CONTROL | USER_DEFINED | UNKNOWN
        tokens = [token for token, attribute in enumerate(vocabulary.attributes) if attribute & wanted]
        self._attributes = vocabulary.attributes
        everything = {vocabulary.texts[token]: token for token in tokens}
        plain = {t: i for t, i in everything.items() if not vocabulary.attributes[i] & (CONTROL | UNKNOWN)}
        self._finders = {True: _Finder(everything), False: _Finder(plain)}

    def cut(self, text: str, parse_special: bool) -> list[Fragment]:
        """`text` as an alternation of plain stretches (none empty) and token ids."""
        fragments: list[Fragment] = [text] if text else []
        for special, token in self._finders[parse_special].occurring(text):
            cut: list[Fragment] = []
            for fragment in fragments:
                if isinstance(fragment, str) and special in fragment:
                    cut.extend(self._cut_one(fragment, special, token))
                else:
                    cut.append(fragment)
            fragments = cut
        return fragments

    def _cut_one(self, text: str, special: str, token: TokenId) -> Iterator[Fragment]:
        attribute = self._attributes[token]
        first, *others = text.split(special)
        left = first.rstrip(_C_SPACE) if attribute & LSTRIP else first
        if left:
            yield left
        for index, between in enumerate(others):
            yield token
            part = between.lstrip(_C_SPACE) if attribute & RSTRIP else between
            if attribute & LSTRIP and index + 1 < len(others):
                part = part.rstrip(_C_SPACE)
            if part:
                yield part


class _Finder:
    """Which of many strings occur in a text, without trying each of them on all of it."""

    def __init__(self, tokens: Mapping[str, TokenId]) -> None:
        self._tokens = tokens
        self._lengths: dict[str, set[int]] = {}
        for text in tokens:
            self._lengths.setdefault(text[0], set()).add(len(text))
        first = "".join(map(re.escape, self._lengths))
        self._start = re.compile(f"[{first}]") if first else None

    def occurring(self, text: str) -> list[tuple[str, TokenId]]:
        """Longest (in UTF-8) first."""
        if self._start is None:
            return []
        found: set[str] = set()
        for match in self._start.finditer(text):
            start = match.start()
            for length in self._lengths[text[start]]:
                candidate = text[start : start + length]
                if candidate in self._tokens:
                    found.add(candidate)
        order = sorted(found, key=lambda t: (-len(t.encode("utf-8", "replace")), self._tokens[t]))
        return [(special, self._tokens[special]) for special in order]
