"""Turns plans and results into the records of `metrics`. Knows the step contract; decides nothing.

Called once for each plan and each result, in order, so it keeps to what costs a few microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.metrics.meter import Meter
from plait.metrics.records import StepRecord
from plait.scheduler.plan import StepPlan, StepResult
from plait.scheduler.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Planned:
    """What is known of a step when it is planned."""

    tokens: int
    streams: int
    key_reads: int
    decode_key_reads: int
    running: int
    waiting: int
    budget: int
    sequence_limit: int
    plan_seconds: float
    preemptions: int
    recomputed_tokens: int


class Observer:
    """Watches one scheduler for one meter."""

    def __init__(self, scheduler: Scheduler, meter: Meter) -> None:
        self._scheduler = scheduler
        self._meter = meter
        self._newest = -1  # sequence ids ascend
        self._ends: dict[int, int] = {}  # sequence: how many tokens it had after its last plan
        self._lost: dict[int, int] = {}  # sequence that was opened again: tokens it had before
        self._preemptions = 0
        self._evictions = self._drafted = self._accepted = self._expired = self._dropped = 0

    def planned(self, plan: StepPlan, waiting: int, began: float, now: float) -> Planned:
        """A step was planned from `began` to `now`, while `waiting` samples waited."""
        tokens = streams = reads = decode_reads = recomputed = 0
        ends, newest = self._ends, self._newest
        for sequence, given, first, _, _, outputs, drafts in plan.sequences:
            count = len(given)
            if sequence > newest:
                self._begins(sequence, now)
            if self._lost:
                recomputed += self._again(sequence, first, count)
            keys = count * first + count * (count + 1) // 2
            reads += keys
            tokens += count
            if outputs:
                streams += 1
                if count == 1 or drafts:
                    decode_reads += keys
            ends[sequence] = first + count
        if len(ends) > 4 * len(plan.sequences) + 64:
            self._forget(plan)
        scheduler, counters = self._scheduler, self._scheduler.counters
        preempted, self._preemptions = counters.preemptions - self._preemptions, counters.preemptions
        limits, seconds = scheduler.limits, now - began
        running, places = scheduler.num_running, limits.n_parallel
        budget = limits.budget(tokens - plan.prompt_tokens)
        return Planned(
            tokens, streams, reads, decode_reads, running, waiting, budget, places, seconds, preempted, recomputed,
        )  # fmt: skip

    def landed(self, plan: StepPlan, planned: Planned, result: StepResult, now: float) -> StepRecord:
        """The step's result is in, and committed."""
        counters = self._scheduler.counters
        drafted, self._drafted = counters.drafted_tokens - self._drafted, counters.drafted_tokens
        accepted, self._accepted = counters.accepted_tokens - self._accepted, counters.accepted_tokens
        pages = self._scheduler.cache_stats()
        evicted, self._evictions = pages.evictions - self._evictions, pages.evictions
        pins = self._scheduler.pin_stats()
        expired, self._expired = pins.expired - self._expired, pins.expired
        dropped, self._dropped = pins.dropped - self._dropped, pins.dropped
        record = StepRecord(
            step=plan.step,
            prompt_tokens=plan.prompt_tokens,
            decode_tokens=planned.tokens - plan.prompt_tokens,
            sequences=len(plan.sequences),
            budget=planned.budget,
            seconds=result.seconds,
            waiting=planned.waiting,
            streams=planned.streams,
            key_reads=planned.key_reads,
            decode_key_reads=planned.decode_key_reads,
            running=planned.running,
            sequence_limit=planned.sequence_limit,
            plan_seconds=planned.plan_seconds,
            sample_seconds=result.sample_seconds,
            end_s=now,
            pages_free=sum(pages.free),
            pages_cached=sum(pages.cached),
            pages_held=sum(pages.held),
            evictions=evicted,
            preemptions=planned.preemptions,
            recomputed_tokens=planned.recomputed_tokens,
            draft_tokens=drafted,
            accepted_tokens=accepted,
            pages_pinned=pins.pages,
            pins_expired=expired,
            pins_dropped=dropped,
        )
        self._meter.step(record)
        return record

    def _begins(self, sequence: int, now: float) -> None:
        request_id, index = self._scheduler.owner(sequence)
        before = self._meter.began(request_id, index, sequence, now)
        if before in self._ends:
            self._lost[sequence] = self._ends.pop(before)
        self._newest = max(self._newest, sequence)

    def _again(self, sequence: int, first: int, count: int) -> int:
        """Of the rows, those that were computed before the sequence gave way."""
        had = self._lost.get(sequence, 0)
        if had and first + count >= had:
            del self._lost[sequence]
        return max(min(first + count, had) - first, 0)

    def _forget(self, plan: StepPlan) -> None:
        """Sequences end without a word to us; a preempted one that returns after this counts as new work."""
        known = {planned.sequence for planned in plan.sequences}
        self._ends = {sequence: end for sequence, end in self._ends.items() if sequence in known}
        self._lost = {sequence: had for sequence, had in self._lost.items() if sequence in known}
