"""What one step did, and what one finished sample saw. Plain data; knows nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step: its tokens (`prompt_tokens` of prompts, `decode_tokens` of decoding sequences), the sequences it ran,
    its token budget, the seconds it took, and the samples that waited when it was planned.

    `streams` sequences draw a token; `key_reads` sums, over all rows, the keys that a row looks at,
    `decode_key_reads` over the decode rows. `running` sequences
    hold a place, of `sequence_limit`. `plan_seconds` went into planning and packing the step, `sample_seconds`, a part
    of `seconds`, into drawing. `end_s` is the clock's time when the result was in. Pages are those of all KV groups.
    `preemptions` and `recomputed_tokens` fell to this step; so did `draft_tokens`, of which `accepted_tokens` held.
    Pins hold `pages_pinned` of the pages; in this step `pins_expired` ended at their time, `pins_dropped` before it.
    """

    step: int
    prompt_tokens: int
    decode_tokens: int
    sequences: int
    budget: int
    seconds: float
    waiting: int
    streams: int = 0
    key_reads: int = 0
    decode_key_reads: int = 0
    running: int = 0
    sequence_limit: int = 0
    plan_seconds: float = 0.0
    sample_seconds: float = 0.0
    end_s: float = 0.0
    pages_free: int = 0
    pages_cached: int = 0
    pages_held: int = 0
    evictions: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    pages_pinned: int = 0
    pins_expired: int = 0
    pins_dropped: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.decode_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecord:
    """One finished sample: its tokens, and its times in seconds. A time that never came (no first token, never left the
    queue) is None. `worst_itl_s` is its longest gap between tokens; `late_gaps` of its `output_tokens - 1` gaps were
    over the bound. `in_time` says whether it met both bounds (None without bounds, or where nothing was asked for).
    `mean_batch_tokens` is the mean of the tokens of the steps that ended while it ran."""

    request_id: str
    index: int
    tenant: str
    end: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    end_to_end_s: float
    queue_s: float | None = None
    ttft_s: float | None = None
    mean_itl_s: float | None = None
    worst_itl_s: float | None = None
    late_gaps: int = 0
    in_time: bool | None = None
    mean_batch_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a stream shall see: seconds to its first token, and between two tokens."""

    ttft_s: float
    itl_s: float


LATE_SHARE = 0.01
"""A sample meets the ITL bound if at most this share of its gaps is over it: none, in answers of up to 100 tokens."""
