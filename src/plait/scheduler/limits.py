"""The limits of a step. Knows numbers only."""

from __future__ import annotations

from dataclasses import dataclass

from plait.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`n_batch`: tokens a step at most (the token budget). `n_parallel`: sequences that run at once at most.
    `context_length`: tokens of a sequence at most, prompt and answer together.

    Raises `OptionError` for a limit below 1.
    """

    n_batch: int
    n_parallel: int
    context_length: int

    def __post_init__(self) -> None:
        for name in ("n_batch", "n_parallel", "context_length"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}; give at least 1")

    @property
    def places(self) -> int:
        """Sequences to run at once: each wants a token of every step, so more than the budget would only queue."""
        return min(self.n_parallel, self.n_batch)
