"""Decides every step anew: which sequences run, with which tokens, and what their results mean.

Knows requests, limits and the bookkeeping of the cache. Knows no numbers of the model, no text and no thread: it is
driven by one caller, who runs its plans in order, and told the time by a clock it is given. `policy` is where orders
change; `limits` is read anew at every step.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from plait.cache.kv import CacheStats, KVCache
from plait.errors import PlaitError, StepError
from plait.scheduler import policy
from plait.scheduler.admission import Admission
from plait.scheduler.check import check_requests
from plait.scheduler.counters import Counters
from plait.scheduler.door import Timeouts, check_bounds, check_request
from plait.scheduler.draft import Draft
from plait.scheduler.fairness import FairShare
from plait.scheduler.limits import Limits, QueueBounds
from plait.scheduler.lookup import verified
from plait.scheduler.pins import PinStats
from plait.scheduler.plan import PlannedSampling, PlannedSequence, RowResult, StepPlan, StepResult
from plait.scheduler.planner import Planner
from plait.scheduler.request import ENDED, PENDING, RUNNING, WAITING, Request, Sample
from plait.scheduler.sequences import Sequences
from plait.types import EngineRequest, FinishReason, Logprob, TokenEvent

NO_BOUNDS = QueueBounds()
_new = tuple.__new__
"""Makes a named tuple in a third of the time that its own constructor takes."""


class Scheduler:
    """Requests in; plans out; results in; events out. Each sample of a request gets exactly one final event.

    Ends: a stop id (not part of the event's tokens) gives `stop`; `max_tokens` or a full context gives `length`. When
    pages run out, or a more urgent request finds no place, a sequence gives its pages back and is computed again later,
    with the same tokens as its outcome. `counters` are totals.
    """

    def __init__(
        self,
        cache: KVCache,
        limits: Limits,
        *,
        reuse: bool = True,
        queue: QueueBounds = NO_BOUNDS,
        clock: Callable[[], float] = time.monotonic,
        ready: Callable[[EngineRequest], bool] | None = None,
    ) -> None:
        """`reuse` False computes every prompt afresh. `clock` gives seconds; deadlines are in its time.
        `ready` is asked before a request begins: where it says False, that one waits and others go first."""
        self.limits = limits
        self.counters = Counters()
        self._queue = queue
        self._clock = clock
        self._sequences = Sequences(cache, reuse=reuse)  # RUNNING, LEAVING, and ENDED with a step in flight
        # A sequence that has the memory to itself always fits, so whoever is admitted gets to its end.
        self.context_length = min(limits.context_length, self._sequences.capacity)
        self._admission = Admission(self._sequences, self.counters, ready)
        self._planner = Planner(self._sequences, self._admission)
        self._fair = FairShare()
        self._requests: dict[str, Request] = {}
        self._in_flight: deque[StepPlan] = deque()
        self._timeouts = Timeouts()
        self._arrivals = itertools.count()
        self._steps = 0

    # --- requests -------------------------------------------------------------------------------------------------

    def add(self, request: EngineRequest) -> list[TokenEvent]:
        """Accept a request. The events are of samples that were resumed with all their tokens, and end at once.

        Raises `QueueFullError` where the queue is at its bounds, `RequestError` for an empty prompt or an id in use,
        `PromptTooLongError` for a prompt that leaves no room in the context or the KV memory for a single new token.
        """
        now = self._clock()
        try:
            check_bounds(request, self._admission.waiting, self._queue, now)
            context, known = self.context_length, request.request_id in self._requests
            check_request(request, known, context, context < self.limits.context_length)
        except PlaitError as error:
            self.counters.refuse(error.code)
            raise
        account = self._fair.enter(request.tenant)
        accepted = Request(request, next(self._arrivals), self.context_length, account, now)
        self._requests[request.request_id] = accepted
        self._timeouts.add(accepted)
        for sample in accepted.first:
            self._admission.enqueue(sample, returning=accepted.drawn)
        return [self._end(sample, FinishReason.LENGTH) for sample in accepted.complete]

    def abort(self, request_id: str) -> list[TokenEvent]:
        """End what is left of a request with `abort`. An id that is not (or no longer) known gives no events."""
        request = self._requests.get(request_id)
        return [self._end(sample, FinishReason.ABORT) for sample in request.all_end()] if request else []

    def finish(self, request_id: str, index: int) -> list[TokenEvent]:
        """End one sample with `stop`, because the caller found a stop string in its text. Tokens drawn meanwhile are
        dropped. No events if it has ended already."""
        samples = self._requests[request_id].samples if request_id in self._requests else []
        return [self._end(s, FinishReason.STOP) for s in samples if s.index == index and s.phase is not ENDED]

    def expire(self) -> list[TokenEvent]:
        """End the requests whose deadline has passed, and those that were not begun within their `queue_timeout`. To
        be called before each step is planned."""
        events: list[TokenEvent] = []
        for request, error in self._timeouts.due(self._clock(), self._requests):
            self.counters.refuse(error.code)
            events += [self._end(sample, error=error) for sample in request.all_end()]
        return events

    def fail_all(self, error: Exception) -> list[TokenEvent]:
        """End every request with `error`, and forget the plans in flight: none of them will be committed."""
        for sample in list(self._sequences.by_id.values()):
            sample.in_flight = 0
        self._in_flight.clear()
        events = []
        for request in list(self._requests.values()):
            events += [self._end(sample, error=error) for sample in request.all_end()]
        for sample in list(self._sequences.by_id.values()):
            self._admission.settle(sample)
        return events

    @property
    def has_work(self) -> bool:
        return bool(self._requests or self._in_flight)

    @property
    def requests(self) -> Mapping[str, Request]:
        """Those that have not ended, by id, in order of arrival. To be looked at, not to be changed."""
        return self._requests

    @property
    def num_running(self) -> int:
        """Sequences that take part in steps."""
        return len(self._admission.running)

    @property
    def num_waiting(self) -> int:
        """Samples in the queue."""
        return len(self._admission.waiting)

    def owner(self, sequence: int) -> tuple[str, int]:
        """The request and the sample that a sequence of a plan in flight belongs to."""
        sample = self._sequences.by_id[sequence]
        return sample.request.request_id, sample.index

    def cache_stats(self) -> CacheStats:
        """The pages of the KV memory, by what holds them."""
        return self._sequences.cache_stats()

    def pin_stats(self) -> PinStats:
        """The pages that pinned sessions hold, and how pins ended."""
        return self._sequences.pins.stats()

    # --- planning -------------------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan | None:
        """The next step, or None if nothing can run before the step in flight is committed (or at all), or had better
        not. May be called with one step in flight."""
        assert len(self._in_flight) < 2, "two steps are in flight; commit one first"
        if self._in_flight and self.limits.n_draft and self._admission.guessing:
            return None  # who guesses has to know its last token, and a step of the others alone costs a whole step
        now = self._clock()
        self._sequences.pins.expire(now)
        if len(self._admission.waiting):
            self._admission.yield_place(self.limits.places, now, self.limits.promise)
        draft = Draft(self._steps, self.limits.n_batch)
        prompts = self._planner.decode(draft, self.limits)
        decoding = bool(draft.sequences)
        budget = self.limits.prompt_budget(draft.budget, decoding)
        if budget and len(self._admission.waiting):
            self._admission.admit(self.limits, budget, prompts, self._steps, now)
        self._planner.prefill(prompts, budget, draft, now, self.limits.promise)
        if not draft.sequences:
            assert self._in_flight or not self._requests or self._admission.held_back, "requests wait and nothing runs"
            return None
        self.counters.recomputed_tokens += draft.recomputed
        plan = draft.finish(self._sequences.take_edits())
        self._steps += 1
        self._in_flight.append(plan)
        return plan

    # --- results --------------------------------------------------------------------------------------------------

    def commit(self, plan: StepPlan, result: StepResult) -> list[TokenEvent]:
        """Take a step's result in; plans are committed in the order they were made. Rows of samples that have ended
        meanwhile are dropped."""
        oldest = self._in_flight.popleft()
        assert oldest is plan, "commit plans in order"
        assert result.step == plan.step, "this is another step's result"
        rows, failures, at = result.rows, dict(result.failures), 0
        running = self._admission.running
        guesses, odds = self.limits.guesses(len(running)), self.limits.least_odds(len(running))
        by_id, commit_one, still_running = self._sequences.by_id, self._sequences.commit_one, RUNNING
        events: list[TokenEvent] = []
        for planned in plan.sequences:
            sequence, tokens, first, _, _, outputs, _ = planned
            sample = by_id[sequence]
            request, known = sample.request, sample.tokens
            try:
                if failures and sequence in failures:
                    events += self._fail(sample, failures[sequence])
                elif (
                    len(tokens) == 1 == len(outputs)
                    and sample.phase is still_running
                    and first >= request.prompt_length
                    and request.streams
                ):  # what follows is `_take` of a sample that decodes, with the request to itself: most of all rows
                    drawn, logprobs, error, mu, _ = row = rows[at]
                    del sample.drawing[0]
                    if error is None and len(drawn) == 1:
                        commit_one(sequence, known[first])
                        (token,) = drawn
                        if token not in request.stop_ids and len(known) + 1 < request.limit:
                            known.append(token)
                            sample.mu = mu
                            name, index = request.request_id, sample.index
                            told = (name, index, drawn, logprobs, None, None, 0, 0, (), (), 0.0, 0.0, mu)
                            events.append(_new(TokenEvent, told))
                            if not guesses and not sample.guess:
                                at += 1
                                sample.in_flight -= 1
                                continue
                        else:
                            events.append(self._accept(sample, row))
                    else:
                        self._sequences.commit(sample, first, 1, error is None)
                        events.append(self._accept(sample, row))
                else:
                    self._take(sample, planned, rows[at : at + len(outputs)], events)
            except Exception as wrong:
                events += self._fail(sample, StepError.of(wrong))
            at += len(outputs)
            sample.in_flight -= 1  # until here its pages are held, also if it ended just now
            if sample.phase is not still_running:
                self._admission.settle(sample)
            elif guesses and sample.planned >= request.prompt_length:
                sample.make_guess(guesses, odds)
            elif sample.guess:
                sample.guess = ()
        return events

    def _take(
        self, sample: Sample, planned: PlannedSequence, drawn: Sequence[RowResult], events: list[TokenEvent]
    ) -> None:
        """Take in the rows of a sequence."""
        if planned.drafts:
            events += self._take_guess(sample, planned, drawn)
            return
        # A last row behind the sample's end is of no known token, and is dropped here.
        sound, request = True, sample.request
        for row in drawn:
            sound &= row.error is None
        self._sequences.commit(sample, planned.first_position, len(planned.tokens), sound)
        if request.looks or not request.streams or request.limit == request.prompt_length:
            events += self._draw(sample, planned, drawn)
        elif drawn:  # what follows is `_draw` of a request's only sample
            del sample.drawing[0]
            if sample.phase is not ENDED:
                events.append(self._accept(sample, drawn[0]))

    def _take_guess(self, sample: Sample, planned: PlannedSequence, drawn: Sequence[RowResult]) -> list[TokenEvent]:
        """The tokens of a row and of its guesses, as far as these were right."""
        if sample.phase is ENDED:
            return []
        assert sample.lookup is not None
        row = verified(planned.tokens[1:], drawn)
        right = len(row.tokens) - (row.error is None)
        self._sequences.commit_guess(sample, planned.tokens[: 1 + right], row.error is None)
        del sample.drawing[0]
        sample.lookup.judge(planned.drafts, right, len(sample.tokens) + len(row.tokens))
        self.counters.drafted_tokens += planned.drafts
        self.counters.accepted_tokens += right
        sample.request.account.tokens += policy.OUTPUT_WEIGHT * right
        return [self._accept(sample, row)]

    def _fail(self, sample: Sample, error: Exception) -> Iterator[TokenEvent]:
        """The rows of a sequence failed: so do all samples that rely on them."""
        request = sample.request
        for other in request.samples:
            if (other is sample or other.phase is PENDING) and other.phase is not ENDED:
                request.drawn = True  # the prompt is to blame: nobody takes over
                yield self._end(other, error=error)

    def _draw(self, sample: Sample, planned: PlannedSequence, drawn: Sequence[RowResult]) -> Iterator[TokenEvent]:
        request = sample.request
        if request.looks and (error := request.see(planned, drawn)) is not None:
            yield from self._fail(sample, error)
            return
        if request.limit == request.prompt_length <= planned.first_position + len(planned.tokens):
            reason = FinishReason.LENGTH if request.pooling is None else FinishReason.STOP
            yield from [self._end(s, reason) for s in request.samples if s.phase is not ENDED]
        heirs = []
        for (_, sampling), row in zip(planned.outputs, drawn, strict=True):
            if not isinstance(sampling, PlannedSampling):
                continue
            target = request.samples[sampling.sample_index]
            if target is sample:
                sample.drawing.pop(0)
            elif target.phase is PENDING:
                target.tokens = list(request.engine_request.prompt)
                target.cached_tokens = request.prompt_length  # all of it was computed for another sample
                heirs.append(target)
            if target.phase is not ENDED:
                yield self._accept(target, row)
        heirs = [heir for heir in heirs if heir.phase is not ENDED]
        if heirs:
            self._sequences.keep_base(sample, heirs)
        for heir in heirs:
            self._admission.enqueue(heir)

    def _accept(self, sample: Sample, row: RowResult) -> TokenEvent:
        """Append the drawn tokens, as far as the sample goes."""
        if row.mu is not None:
            sample.mu = row.mu
        count, reason = sample.take(row.tokens)
        if count != 1:
            sample.ahead = 0
        tokens, logprobs = row.tokens[:count], row.logprobs[:count]
        if reason is not None or row.error is not None:
            error = row.error if reason is None else None
            return self._end(sample, reason, error=error, tokens=tokens, logprobs=logprobs)
        request_id, entries = sample.request.request_id, sample.request.take_entries(sample.index)
        return TokenEvent(request_id, sample.index, tokens, logprobs, prompt_logprobs=entries, mu=sample.mu)

    # --- ends -----------------------------------------------------------------------------------------------------

    def _end(
        self,
        sample: Sample,
        reason: FinishReason | None = None,
        *,
        error: Exception | None = None,
        tokens: tuple[int, ...] = (),
        logprobs: tuple[tuple[Logprob, ...], ...] = (),
    ) -> TokenEvent:
        """The sample's final event. Its pages go as soon as no step in flight uses them."""
        request, index, cached = sample.request, sample.index, sample.cached_tokens or 0
        entries: tuple[tuple[Logprob, ...], ...] = ()
        if reason is not None and reason is not FinishReason.ABORT:
            entries = request.take_entries(index)
            made = len(sample.tokens) - request.prompt_length
            self._admission.lengths.see(request.account.tenant, request.priority, made)
        sample = request.pass_lead(sample)
        if sample.phase is WAITING:
            self._admission.waiting.remove(sample)
            sample.go_away()
        elif sample.phase is RUNNING:
            self._admission.leave(sample)
        sample.phase = ENDED
        if request.engine_request.pin and reason is not None:
            sample.pinned_until = self._clock() + request.engine_request.pin
        self._admission.settle(sample)
        request.open -= 1
        self._sequences.leave_base(sample)
        if request.open == 0:
            del self._requests[request.request_id]
            self._fair.leave(request.account)
        name, length = request.request_id, request.prompt_length
        told = (name, index, tokens, logprobs, reason, error, length, cached, entries, (), 0.0, 0.0, None)
        return _new(TokenEvent, told)

    def check(self) -> None:
        """Verify the invariants; raises `AssertionError`."""
        flying = [p.sequence for plan in self._in_flight for p in plan.sequences]
        check_requests(list(self._requests.values()), self._sequences.by_id, flying)
        self._admission.check([s for r in self._requests.values() for s in r.samples])
        self._sequences.check()
