"""The samples on their way: when each arrived, began, and got its tokens. Knows no clock: it is handed the time."""

from __future__ import annotations

from plait.metrics.records import LATE_SHARE, Bounds, SampleRecord
from plait.types import TokenEvent


class Life:
    """One sample. Times are the clock's, in seconds; None has not come yet."""

    __slots__ = (
        "arrived", "began", "first", "last", "late", "prompt_tokens", "rows", "sequence", "steps", "tenant", "tokens",
        "worst",
    )  # fmt: skip

    def __init__(self, arrived: float, prompt_tokens: int, tenant: str) -> None:
        self.arrived = arrived
        self.prompt_tokens = prompt_tokens
        self.tenant = tenant
        self.began: float | None = None
        self.first: float | None = None
        self.last = arrived
        self.tokens = 0
        self.late = 0
        self.worst = 0.0
        self.sequence = -1
        self.steps = self.rows = 0  # of the engine, when this began

    def finish(self, event: TokenEvent, now: float, bounds: Bounds | None, steps: int, rows: int) -> SampleRecord:
        """The sample's record; `event` is its final one, and the engine has made so many `steps` of so many `rows`."""
        ran = 0 if self.began is None else steps - self.steps
        asked_for_nothing = event.finish_reason is not None and self.tokens == 0
        return SampleRecord(
            request_id=event.request_id,
            index=event.index,
            tenant=self.tenant,
            end="error" if event.finish_reason is None else str(event.finish_reason),
            prompt_tokens=event.prompt_tokens,
            cached_tokens=event.cached_tokens,
            output_tokens=self.tokens,
            end_to_end_s=now - self.arrived,
            queue_s=None if self.began is None else self.began - self.arrived,
            ttft_s=None if self.first is None else self.first - self.arrived,
            mean_itl_s=(self.last - self.first) / (self.tokens - 1) if self.first and self.tokens > 1 else None,
            worst_itl_s=self.worst if self.tokens > 1 else None,
            late_gaps=self.late,
            in_time=None if bounds is None or asked_for_nothing else self._in_time(event, bounds),
            mean_batch_tokens=(rows - self.rows) / ran if ran else None,
        )

    def _in_time(self, event: TokenEvent, bounds: Bounds) -> bool:
        if event.finish_reason is None or self.first is None:
            return False
        return self.first - self.arrived <= bounds.ttft_s and self.late <= LATE_SHARE * self.tokens
