"""Adds up what happens in one engine: a few microseconds a step. Knows records and the catalogue; no scheduler.

The clock's time is handed in. One caller at a time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping

from plait.metrics import catalogue as c
from plait.metrics.histogram import Histogram
from plait.metrics.lives import Life
from plait.metrics.process import ProcessFigures, process_figures
from plait.metrics.records import Bounds, SampleRecord, StepRecord
from plait.metrics.snapshot import Snapshot
from plait.types import EngineRequest, TokenEvent

KEPT_SAMPLES = 4096
RECENT_STEPS = 64
"""Utilisation gauges are over this many steps."""


class Meter:
    """Counts since the engine started. `finished` are the latest samples that ended. With `bounds`, samples that meet
    both count as in time."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds
        self.finished: deque[SampleRecord] = deque(maxlen=KEPT_SAMPLES)
        self.steps = self.prompt_rows = self.decode_rows = self.sequence_rows = self.budget_tokens = 0
        self.budget_sequences = self.preemptions = self.recomputed = self.drafted = self.accepted = self.evictions = 0
        self.prompt_tokens = self.cached_tokens = self.generated_tokens = self.in_time = 0
        self.plan_s = self.prefill_s = self.decode_s = self.sample_s = 0.0
        self._ends: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._decisions: Counter[str] = Counter()
        self._pins_ended: Counter[str] = Counter()
        self._limits: dict[str, float] = {}
        self._terms: dict[str, float] = {}
        self._recent: deque[StepRecord] = deque(maxlen=RECENT_STEPS)
        self._lives: dict[tuple[str, int], Life] = {}
        self._ttft, self._itl = Histogram(c.TTFT.buckets), Histogram(c.ITL.buckets)
        self._e2e, self._queue = Histogram(c.END_TO_END.buckets), Histogram(c.QUEUE.buckets)
        self._token_time, self._step_time = Histogram(c.TOKEN_TIME.buckets), Histogram(c.STEP_TIME.buckets)
        self._cpu: tuple[float, float] | None = None

    # --- requests -------------------------------------------------------------------------------------------------

    def arrived(self, request: EngineRequest, now: float, tenant: str = "") -> None:
        """A request was accepted."""
        for index in set(range(request.sampling.n)) - request.ended:
            self._lives[request.request_id, index] = Life(now, len(request.prompt), tenant)

    def rejected(self, reason: str) -> None:
        """A request was refused at the door; `reason` is the code of the error."""
        self._rejected[reason] += 1

    def began(self, request_id: str, index: int, sequence: int, now: float) -> int:
        """A sample got a sequence. Returns the one it had before a preemption, -1 if this is its first."""
        life = self._lives.get((request_id, index))
        if life is None:
            return -1
        before, life.sequence = life.sequence, sequence
        if life.began is None:
            life.began, life.steps, life.rows = now, self.steps, self.prompt_rows + self.decode_rows
            self._queue.observe(now - life.arrived)
        return before

    def events(self, events: Iterable[TokenEvent], now: float) -> list[SampleRecord]:
        """News that goes out at `now`. Of several tokens in one event each counts with its share of the gap. Returns
        the records of the samples that end with it, in the order of their events."""
        ended: list[SampleRecord] = []
        lives, same, times = self._lives, -1.0, 0  # most gaps of a step are equal: observe them at once
        itl_bound = self.bounds.itl_s if self.bounds else float("inf")
        generated = 0
        for event in events:
            request_id, index, tokens, _, reason, error = event[:6]
            life = lives.get((request_id, index))
            if life is None:
                continue
            if tokens:
                count = len(tokens)
                generated += count
                life.tokens += count
                if life.first is None:
                    life.first = now
                    self._ttft.observe(now - life.arrived)
                else:
                    gap = now - life.last
                    if gap > life.worst:
                        life.worst = gap
                    if gap > itl_bound:
                        life.late += 1
                    if gap == same and count == 1:
                        times += 1
                    else:
                        if times:
                            self._itl.observe(same, times)
                        same, times = gap / count, count
                life.last = now
            if reason is not None or error is not None:
                ended.append(self._finish(lives.pop((request_id, index)), event, now))
        if times:
            self._itl.observe(same, times)
        self.generated_tokens += generated
        return ended

    def _finish(self, life: Life, event: TokenEvent, now: float) -> SampleRecord:
        record = life.finish(event, now, self.bounds, self.steps, self.prompt_rows + self.decode_rows)
        self.finished.append(record)
        self._ends[record.end] += 1
        self._e2e.observe(record.end_to_end_s)
        if record.mean_itl_s is not None:
            self._token_time.observe(record.mean_itl_s)
        self.prompt_tokens += record.prompt_tokens
        self.cached_tokens += record.cached_tokens
        self.in_time += record.in_time is True
        return record

    # --- steps ----------------------------------------------------------------------------------------------------

    def step(self, record: StepRecord) -> None:
        """A step is done. Its time without the drawing is divided by its tokens between prefill and decode."""
        tokens = record.prompt_tokens + record.decode_tokens
        self.steps += 1
        self.prompt_rows += record.prompt_tokens
        self.decode_rows += record.decode_tokens
        self.sequence_rows += record.sequences
        self.budget_tokens += record.budget
        self.budget_sequences += record.sequence_limit
        self.preemptions += record.preemptions
        self.recomputed += record.recomputed_tokens
        self.drafted += record.draft_tokens
        self.accepted += record.accepted_tokens
        self.evictions += record.evictions
        self._pins_ended.update(expired=record.pins_expired, dropped=record.pins_dropped)
        model_s = record.seconds - record.sample_seconds
        prefill_s = model_s * record.prompt_tokens / tokens
        self.plan_s += record.plan_seconds
        self.prefill_s += prefill_s
        self.decode_s += model_s - prefill_s
        self.sample_s += record.sample_seconds
        self._step_time.observe(record.seconds)
        self._recent.append(record)

    def limits(self, limits: Mapping[str, float], changed: Iterable[str] = ()) -> None:
        """The limits in force by name (see `catalogue.LIMITS`), and which of them the controller has just changed."""
        self._limits = dict(limits)
        self._decisions.update(changed)

    def model(self, terms: Mapping[str, float]) -> None:
        """The step-time model in use; see `catalogue.MODEL`."""
        self._terms = dict(terms)

    # --- snapshot -------------------------------------------------------------------------------------------------

    def snapshot(self, now: float, waiting: int = 0, figures: ProcessFigures | None = None) -> Snapshot:
        """All metrics. `waiting` samples are in the queue at this moment."""
        figures = figures or process_figures()
        values: dict[str, dict[str, float]] = {
            c.SAMPLES.name: {end: self._ends[end] for end in c.SAMPLES.values},
            c.REJECTED.name: dict(self._rejected),
            c.STEP_TOKENS.name: {"prefill": self.prompt_rows, "decode": self.decode_rows},
            c.STEP_SECONDS.name: dict(
                zip(c.PHASES, (self.plan_s, self.prefill_s, self.decode_s, self.sample_s), strict=True)
            ),
            c.DECISIONS.name: {limit: self._decisions[limit] for limit in c.LIMITS},
            c.PINS_ENDED.name: {end: self._pins_ended[end] for end in c.PINS_ENDED.values},
            c.LIMIT.name: dict(self._limits),
            c.MODEL.name: dict(self._terms),
        }
        values |= {metric.name: {"": value} for metric, value in self._plain().items()}
        values |= {metric.name: {"": value} for metric, value in self._process(figures, now).items()}
        values |= self._gauges(waiting)
        return Snapshot(now, values, {metric.name: data.data() for metric, data in self._histograms().items()})

    def _plain(self) -> dict[c.Metric, float]:
        return {
            c.IN_TIME: self.in_time,
            c.PROMPT_TOKENS: self.prompt_tokens,
            c.CACHED_TOKENS: self.cached_tokens,
            c.GENERATED_TOKENS: self.generated_tokens,
            c.STEPS: self.steps,
            c.STEP_SEQUENCES: self.sequence_rows,
            c.BUDGET_TOKENS: self.budget_tokens,
            c.BUDGET_SEQUENCES: self.budget_sequences,
            c.PREEMPTIONS: self.preemptions,
            c.RECOMPUTED: self.recomputed,
            c.DRAFTED: self.drafted,
            c.ACCEPTED: self.accepted,
            c.EVICTIONS: self.evictions,
            c.HIT_RATE: _ratio(self.cached_tokens, self.prompt_tokens),
            c.ACCEPTANCE: _ratio(self.accepted, self.drafted),
        }

    def _gauges(self, waiting: int) -> dict[str, dict[str, float]]:
        recent = self._recent
        last = recent[-1] if recent else None
        tokens = _ratio(sum(r.tokens for r in recent), sum(r.budget for r in recent))
        sequences = _ratio(sum(r.running for r in recent), sum(r.sequence_limit for r in recent))
        gauges: dict[str, dict[str, float]] = {
            c.RUNNING.name: {"": last.running if last else 0},
            c.WAITING.name: {"": waiting},
            c.TOKEN_USE.name: {"": tokens},
            c.PINNED.name: {"": last.pages_pinned if last else 0},
            c.SEQUENCE_USE.name: {"": sequences},
        }
        if last:
            gauges[c.PAGES.name] = {"used": last.pages_held, "cached": last.pages_cached, "free": last.pages_free}
        return gauges

    def _process(self, figures: ProcessFigures, now: float) -> dict[c.Metric, float]:
        found: dict[c.Metric, float] = {}
        if figures.memory_bytes is not None:
            found[c.MEMORY] = figures.memory_bytes
        if figures.machine_load is not None:
            found[c.MACHINE_LOAD] = figures.machine_load
        if self._cpu is not None and now > self._cpu[0]:
            found[c.CPU_LOAD] = (figures.cpu_seconds - self._cpu[1]) / (now - self._cpu[0])
        self._cpu = (now, figures.cpu_seconds)
        return found

    def _histograms(self) -> dict[c.Metric, Histogram]:
        return {
            c.TTFT: self._ttft,
            c.ITL: self._itl,
            c.END_TO_END: self._e2e,
            c.QUEUE: self._queue,
            c.TOKEN_TIME: self._token_time,
            c.STEP_TIME: self._step_time,
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
