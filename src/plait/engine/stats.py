"""The totals of an engine that faces show. Plain data; everything else is in `metrics`."""

from __future__ import annotations

from dataclasses import dataclass

from plait.metrics.meter import Meter


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Totals since the engine started.

    `prompt_tokens` were computed (those of a preempted sequence again); `cached_tokens` of the samples' prompts were
    found in memory instead. `generated_tokens` went out in events. A step's seconds are divided between
    `prefill_seconds` and `decode_seconds` by its tokens, and `sample_seconds`, which were spent in drawing, are part of
    `decode_seconds`. `preemptions` counts sequences that had to give way.
    """

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    decode_tokens: int = 0
    sequences: int = 0
    budget_tokens: int = 0
    budget_sequences: int = 0
    preemptions: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    sample_seconds: float = 0.0

    @staticmethod
    def of(meter: Meter) -> EngineStats:
        """What the meter counted so far."""
        return EngineStats(
            steps=meter.steps,
            prompt_tokens=meter.prompt_rows,
            cached_tokens=meter.cached_tokens,
            generated_tokens=meter.generated_tokens,
            decode_tokens=meter.decode_rows,
            sequences=meter.sequence_rows,
            budget_tokens=meter.budget_tokens,
            budget_sequences=meter.budget_sequences,
            preemptions=meter.preemptions,
            prefill_seconds=meter.prefill_s,
            decode_seconds=meter.decode_s + meter.sample_s,
            sample_seconds=meter.sample_s,
        )

    @property
    def mean_tokens_per_step(self) -> float:
        """0 before the first step."""
        return (self.prompt_tokens + self.decode_tokens) / self.steps if self.steps else 0.0

    @property
    def utilisation(self) -> float:
        """Tokens run over the token budgets of the steps, 0 to 1."""
        return (self.prompt_tokens + self.decode_tokens) / self.budget_tokens if self.budget_tokens else 0.0

    @property
    def sequence_utilisation(self) -> float:
        """Sequences run over the sequence limits of the steps, 0 to 1."""
        return self.sequences / self.budget_sequences if self.budget_sequences else 0.0
