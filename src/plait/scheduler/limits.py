"""The limits of a step. Knows numbers only."""

from __future__ import annotations

from dataclasses import dataclass

from plait.errors import OptionError
from plait.scheduler.lookup import least_odds, rows_each
from plait.scheduler.policy import Promise


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`n_batch`: tokens a step at most (the token budget). `n_parallel`: sequences that run at once at most.
    `context_length`: tokens of a sequence at most, prompt and answer together. `n_prefill`: prompt tokens a step at
    most while sequences decode, None for no bound but the budget: so a long prompt does not hold up streams. Read anew
    at every step, so that they may be changed between two; `context_length` is fixed when the scheduler is made.

    `n_draft`: tokens that a sequence may guess ahead, 0 for none. `row_share`: the time of a row over that of a step
    without rows, as measured; a token is guessed only where it is likely enough to be worth its row. While that is not
    known (0), guesses fill a step up to `n_speculate` tokens.

    `promise`, if there is one, says which requests can have their first token in time: those go first.

    Raises `OptionError` for a limit below 1.
    """

    n_batch: int
    n_parallel: int
    context_length: int
    n_prefill: int | None = None
    n_draft: int = 0
    n_speculate: int = 16
    row_share: float = 0.0
    promise: Promise | None = None

    def __post_init__(self) -> None:
        for name in ("n_batch", "n_parallel", "context_length"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}; give at least 1")
        if min(self.n_draft, self.n_speculate) < 0:
            raise OptionError(f"n_draft is {self.n_draft}, n_speculate {self.n_speculate}; give at least 0")
        if self.row_share < 0:
            raise OptionError(f"row_share is {self.row_share}; give at least 0")
        if self.n_prefill is not None and self.n_prefill < 1:
            raise OptionError(f"n_prefill is {self.n_prefill}; give at least 1, or None for no bound")

    @property
    def places(self) -> int:
        """Sequences to run at once: each wants a token of every step, so more than the budget would only queue."""
        return min(self.n_parallel, self.n_batch)

    def budget(self, decoding: int) -> int:
        """Tokens that a step may have beside `decoding` rows of decoding sequences, these included."""
        return min(self.n_batch, decoding + self.n_prefill) if self.n_prefill and decoding else self.n_batch

    def prompt_budget(self, left: int, decoding: bool) -> int:
        """Prompt tokens that a step may take of the `left` ones of its budget."""
        return left if self.n_prefill is None or not decoding else min(left, self.n_prefill)

    def guesses(self, running: int) -> int:
        """Tokens that each of the `running` sequences may guess in a step."""
        if not self.n_draft:
            return 0
        if self.row_share:
            return min(self.n_draft, rows_each(self.n_batch, running)) if self.least_odds(running) < 1 else 0
        return min(self.n_draft, rows_each(min(self.n_speculate, self.n_batch), running))

    def least_odds(self, running: int) -> float:
        """How likely a guess must be right to be worth its row beside `running` others."""
        return least_odds(self.row_share, running)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBounds:
    """How many requests, and how many of their tokens, may wait; 0 is without bound.

    Raises `OptionError` for a negative bound.
    """

    max_requests: int = 0
    max_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("max_requests", "max_tokens"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} is {getattr(self, name)}; give at least 0, which is no bound")
