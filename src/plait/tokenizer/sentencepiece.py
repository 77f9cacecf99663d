"""SentencePiece's byte-pair merging, driven by the scores of the resulting tokens, with byte fallback.

The best score merges first, the leftmost of equals: by the score of the *text*, so a list of ranked merges (as the
`tokenizers` library wants) cannot say the same where scores are equal. Hence our own queue; a text is first cut where
no token can reach across, and the parts are remembered, so that a word is merged once. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

from plait.tokenizer.vocabulary import SPACE_MARK
from plait.types import TokenId

_REMEMBERED_PARTS = 50_000
_LONGEST_REMEMBERED = 64  # characters


class SentencePieceMerger:
    """`ids` maps text to id, `scores[id]` to how early it merges. `unknown` stands for a byte without a token."""

    def __init__(self, ids: Mapping[str, TokenId], scores: Sequence[float], unknown: TokenId | None) -> None:
        self._ids = ids
        self._scores = scores
        self._unknown = unknown
        # Neighbours within some token; the separator makes harmless pairs of its own.
        joined = "\x00".join(ids)
        self._neighbours = set(pairwise(joined))
        self._known: dict[str, tuple[TokenId, ...]] = {}

    def encode(self, text: str) -> list[TokenId]:
        ids: list[TokenId] = []
        known = self._known
        for part in self._parts(text.replace(" ", SPACE_MARK)):
            merged = known.get(part)
            if merged is None:
                merged = tuple(self._merge(part))
                self._remember(part, merged)
            ids.extend(merged)
        return ids

    def _parts(self, text: str) -> Iterator[str]:
        """`text` cut wherever no token holds the two characters next to each other: no merge crosses such a place."""
        start = 0
        neighbours = self._neighbours
        for end, pair in enumerate(pairwise(text), 1):
            if pair not in neighbours:
                yield text[start:end]
                start = end
        if text:
            yield text[start:]

    def _remember(self, part: str, merged: tuple[TokenId, ...]) -> None:
        if len(part) > _LONGEST_REMEMBERED:
            return
        if len(self._known) >= _REMEMBERED_PARTS:
            self._known = {}
        self._known[part] = merged

    def _merge(self, part: str) -> Iterator[TokenId]:
        symbols: list[str] = list(part)  # symbols[i] is "" once its left neighbour has taken it in
        count = len(symbols)
        before = list(range(-1, count - 1))
        after = [*range(1, count), -1]
        queue = [entry for i in range(count - 1) if (entry := self._pair(symbols, i, i + 1))]
        heapify(queue)
        while queue:
            _, left, right, length = heappop(queue)
            if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != length:
                continue  # one of them has merged since
            symbols[left] += symbols[right]
            symbols[right] = ""
            follower = after[left] = after[right]
            if follower >= 0:
                before[follower] = left
                if entry := self._pair(symbols, left, follower):
                    heappush(queue, entry)
            if before[left] >= 0 and (entry := self._pair(symbols, before[left], left)):
                heappush(queue, entry)
        for symbol in symbols:
            if symbol:
                yield from self._emit(symbol)

    def _pair(self, symbols: list[str], left: int, right: int) -> tuple[float, int, int, int] | None:
        text = symbols[left] + symbols[right]
        token = self._ids.get(text)
        return None if token is None else (-self._scores[token], left, right, len(text))

    def _emit(self, symbol: str) -> Iterator[TokenId]:
        token = self._ids.get(symbol)
        if token is not None:
            yield token
            return
        for byte in symbol.encode("utf-8", "replace"):
            fallback = self._ids.get(f"<0x{byte:02X}>", self._ids.get(chr(byte), self._unknown))
            if fallback is not None:
                yield fallback
