"""What the scheduler counted since it was made. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Totals. Of samples that were begun: `prompt_tokens` asked for, `cached_tokens` of them found in memory, and
    `seen_tokens` of them whose first page some earlier prompt had, in memory still or not. `recomputed_tokens` were
    computed again after their sequence gave way; `preemptions` counts how often one did. `drafted_tokens` were guessed,
    `accepted_tokens` of them rightly. `refusals` counts requests by the code of their error."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    seen_tokens: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    refusals: dict[str, int] = field(default_factory=dict)

    def refuse(self, code: str) -> None:
        self.refusals[code] = self.refusals.get(code, 0) + 1
