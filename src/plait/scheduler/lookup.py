"""Speculation by prompt lookup: what followed the last few tokens when they stood in the request's context before.

Knows one sample's tokens and what rows drew; knows no plan and no model. A guess is only ever a guess: each of its
tokens is drawn as it would have been without it, and counts as far as the draws agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from plait.scheduler.plan import FromStep, RowResult
from plait.types import Logprob, TokenId

NGRAM = 3
"""Tokens that must have occurred before."""
FIRST_LENGTH = 4
GROWTH = 2
"""Tokens by which a guess may be longer after one that was right to its end."""
PATIENCE = 2
"""Guesses in a row that may be wrong from the start before there is a pause."""
MARGIN = 1.25
"""A guess has to be worth so many times its row: guesses cost the overlap of planning and running, too."""
FIRST_ODDS = 0.7
"""How likely a guessed token is right, before any was judged; that counts as so many guessed tokens:"""
FIRST_WEIGHT = 4.0
FADE = 0.9
"""What the tokens guessed so far lose in weight with each guess after them."""
FIRST_PAUSE = 8
LONGEST_PAUSE = 256
LONGEST = 1024
"""Tokens of a guess at most."""


def rows_each(bound: int, running: int) -> int:
    """Tokens that each of the `running` sequences may guess in a step that is to have at most `bound` tokens."""
    return max(0, bound - running) // running if running else 0


def least_odds(row_share: float, running: int) -> float:
    """How likely a guessed token must be right, so that its row pays: with `running` sequences a step without guesses
    takes 1 + running * row_share and yields `running` tokens; a row that takes `row_share` must yield at that rate."""
    rows = running * row_share
    return MARGIN * rows / (1 + rows)


def verified(guesses: Sequence[TokenId | FromStep], drawn: Sequence[RowResult]) -> RowResult:
    """The draws that count: as far as the guesses were right, and the one after them. Row i was computed from the
    guesses before it, so what it drew, or its error, counts only if they are what was drawn."""
    tokens: tuple[TokenId, ...] = ()
    logprobs: tuple[tuple[Logprob, ...], ...] = ()
    for number, row in enumerate(drawn):
        if row.error is not None:
            return RowResult(tokens, logprobs, row.error)
        tokens += row.tokens
        logprobs += row.logprobs
        if number < len(guesses) and row.tokens[0] != guesses[number]:
            break
    return RowResult(tokens, logprobs)


class Lookup:
    """The n-grams of one sample's tokens, and how long its guesses had better be: longer while they are right
    (additive), shorter when they are not (multiplicative), none for a while when they are useless, and never so long
    that their last token is not worth its row."""

    __slots__ = ("_ends", "_learned", "_length", "_misses", "_paused_until", "_right", "_tried")

    def __init__(self) -> None:
        self._ends: dict[tuple[TokenId, ...], int] = {}  # n-gram: the index after its last occurrence
        self._learned = NGRAM
        self._length = FIRST_LENGTH
        self._misses = 0
        self._paused_until = 0
        self._right, self._tried = FIRST_ODDS * FIRST_WEIGHT, FIRST_WEIGHT

    def guess(self, tokens: list[TokenId], most: int, odds: float = 0.0) -> tuple[TokenId, ...]:
        """At most `most` tokens that may follow `tokens`, which only grow from call to call, each of them right with a
        likelihood of at least `odds`; () if there is no guess. One that reaches the end of the tokens goes on with
        itself, as a loop does."""
        length = len(tokens)
        for end in range(self._learned, length):
            self._ends[tuple(tokens[end - NGRAM : end])] = end
        self._learned = max(self._learned, length)
        if length < max(self._paused_until, NGRAM):
            return ()
        start = self._ends.get(tuple(tokens[length - NGRAM :]))
        if start is None:
            return ()
        count = min(self._length, most, self._worth(odds))
        if not count and most > 0 and odds < 1:  # one token, once in a while, to see whether that has changed
            count, self._paused_until = 1, length + LONGEST_PAUSE
        found = tokens[start : start + count]
        period = length - start
        while len(found) < count:
            found.append(found[len(found) - period])
        return tuple(found)

    def _worth(self, odds: float) -> int:
        """Tokens of a guess until one is less likely than `odds`: all before it must be right, too."""
        each = self._right / self._tried
        if odds <= 0 or each >= 1:
            return LONGEST
        return int(min(log(odds) / log(each), LONGEST)) if odds < 1 and each > 0 else 0

    def judge(self, guessed: int, right: int, length: int) -> None:
        """Of a guess, `right` tokens were; the sample has `length` tokens now."""
        self._right = FADE * self._right + right
        self._tried = FADE * self._tried + right + (right < guessed)
        if right == guessed:
            self._length += GROWTH
            self._misses = 0
        elif right:
            self._length = max(right + 1, self._length // 2)
            self._misses = 0
        else:
            self._length = max(1, self._length // 2)
            self._misses += 1
            if self._misses >= PATIENCE:
                pause = min(FIRST_PAUSE << min(self._misses - PATIENCE, 8), LONGEST_PAUSE)
                self._paused_until = max(self._paused_until, length + pause)
