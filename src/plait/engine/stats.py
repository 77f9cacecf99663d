"""What the engine counted: one record for each step, and the totals. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step: its tokens (`prompt_tokens` of prompts, `decode_tokens` of decoding sequences), the sequences it ran,
    its token budget, the seconds it took, and the samples that waited when it was planned."""

    step: int
    prompt_tokens: int
    decode_tokens: int
    sequences: int
    budget: int
    seconds: float
    waiting: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.decode_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Totals since the engine started.

    `prompt_tokens` were computed (those of a preempted sequence again); `cached_tokens` of the samples' prompts were
    found in memory instead. `generated_tokens` went out in events. A step's seconds are divided between
    `prefill_seconds` and `decode_seconds` by its tokens. `preemptions` counts sequences that had to give way.
    """

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    decode_tokens: int = 0
    sequences: int = 0
    budget_tokens: int = 0
    preemptions: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def mean_tokens_per_step(self) -> float:
        """0 before the first step."""
        return (self.prompt_tokens + self.decode_tokens) / self.steps if self.steps else 0.0

    @property
    def utilisation(self) -> float:
        """Tokens run over the token budgets of the steps, 0 to 1."""
        return (self.prompt_tokens + self.decode_tokens) / self.budget_tokens if self.budget_tokens else 0.0
