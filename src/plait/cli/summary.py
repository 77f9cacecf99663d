"""Figures of one `plait run`: who was cached, how fast, how full the batches were."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import asdict, dataclass

from plait.api import Delta
from plait.engine.stats import EngineStats


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Counts are of tokens, times in seconds or as named, rates in tokens per second. Prompt tokens count once for each
    sequence; those that another sequence had computed are cached. `batch_utilisation` is tokens per step over the
    token budget, `sequence_utilisation` sequences per step over the sequence limit."""

    sequences: int
    prompt_tokens: int
    cached_tokens: int
    hit_rate: float
    generated_tokens: int
    prompt_tokens_per_s: float
    generation_tokens_per_s: float
    ms_per_token: float
    first_token_s: float
    steps: int
    mean_tokens_per_step: float
    mean_sequences_per_step: float
    batch_utilisation: float
    sequence_utilisation: float
    peak_memory_mib: float
    seed: int

    def lines(self) -> list[str]:
        """For a person."""
        return [
            f"prompt      {self.prompt_tokens} tokens, {self.cached_tokens} cached (hit rate {self.hit_rate:.0%}), "
            f"{self.prompt_tokens_per_s:.0f} tokens/s",
            f"generated   {self.generated_tokens} tokens in {self.sequences} "
            f"{'sequence' if self.sequences == 1 else 'sequences'}, {self.generation_tokens_per_s:.0f} tokens/s, "
            f"{self.ms_per_token:.2f} ms per token, first after {self.first_token_s:.2f} s",
            f"batches     {self.steps} steps, {self.mean_tokens_per_step:.1f} tokens per step "
            f"({self.batch_utilisation:.1%} of the budget), {self.mean_sequences_per_step:.1f} sequences "
            f"({self.sequence_utilisation:.0%} of the limit)",
            f"memory      {self.peak_memory_mib:.0f} MiB at most; seed {self.seed}",
        ]

    def as_dict(self) -> dict[str, float | int]:
        return {name: round(v, 6) if isinstance(v, float) else v for name, v in asdict(self).items()}


class Summary:
    """Collects while deltas pass."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._first: float | None = None
        self._sequences = 0
        self._prompt = self._cached = 0

    def see(self, delta: Delta) -> None:
        if delta.token_ids and self._first is None:
            self._first = time.monotonic()
        if delta.final:
            self._sequences += 1
            self._prompt += delta.prompt_tokens
            self._cached += delta.cached_tokens

    def finish(self, stats: EngineStats, seed: int) -> RunSummary:
        steps = max(stats.steps, 1)
        return RunSummary(
            sequences=self._sequences,
            prompt_tokens=self._prompt,
            cached_tokens=self._cached,
            hit_rate=self._cached / max(self._prompt, 1),
            generated_tokens=stats.generated_tokens,
            prompt_tokens_per_s=_rate(stats.prompt_tokens, stats.prefill_seconds),
            generation_tokens_per_s=_rate(stats.decode_tokens, stats.decode_seconds),
            ms_per_token=1000 * stats.decode_seconds / max(stats.decode_tokens, 1),
            first_token_s=(self._first or time.monotonic()) - self._started,
            steps=stats.steps,
            mean_tokens_per_step=stats.mean_tokens_per_step,
            mean_sequences_per_step=stats.sequences / steps,
            batch_utilisation=stats.utilisation,
            sequence_utilisation=stats.sequence_utilisation,
            peak_memory_mib=peak_memory_mib(),
            seed=seed,
        )


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0


def peak_memory_mib() -> float:
    """Largest resident size of this process so far, MiB. `ru_maxrss` is in KiB, on macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
