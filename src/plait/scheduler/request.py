"""The state of a request and of its samples. Knows tokens and limits; knows no pages, no plan but the token references.

A sample goes PENDING -> WAITING -> RUNNING -> ENDED. The first sample of a request starts as WAITING; the others are
PENDING until the first tokens are drawn from the prompt that the first one computes. A preempted sample goes back to
WAITING, through LEAVING while a step with it is in flight. Any state may go to ENDED.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TypeAlias

from plait.scheduler.fairness import Account
from plait.scheduler.lookup import Lookup
from plait.scheduler.plan import (
    Constraint,
    FromStep,
    PlannedSampling,
    PlannedSequence,
    PooledRow,
    PromptToken,
    RowResult,
    RowUse,
)
from plait.scheduler.policy import MAX_PREEMPTIONS, Promise, Rank, is_late
from plait.types import CacheMode, EngineRequest, FinishReason, Logprob, Pooling, SamplerStage, SamplingParams, TokenId

Entries: TypeAlias = tuple[tuple[Logprob, ...], ...]

LONGEST_LOOK = 128
"""Rows of a prompt that are looked at in one step: each has a whole row of logits."""


class Phase(Enum):
    PENDING = "pending"  # waits for the request's prompt
    WAITING = "waiting"  # in the queue; holds no sequence
    RUNNING = "running"  # has a sequence and takes part in steps
    LEAVING = "leaving"  # preempted with a step in flight; its pages are held until that is in
    ENDED = "ended"  # its final event is out; a sequence, if any, is held until its steps are in


PENDING, WAITING, RUNNING, LEAVING, ENDED = Phase
"""By themselves: to look up a member of an enumeration takes as long as a call."""


class Sample:
    """One continuation of a request's prompt.

    `tokens` are those the host knows, the prompt first; `drawing` the further ones that steps in flight will draw.
    `planned` counts the sequence's tokens with a place in KV memory, in flight or computed. `ahead`, where it is not 0:
    the sample decodes, its last token is the next to run, and so many are to follow that one. `in_flight` counts the
    plans that the sequence is in. `cached_tokens` of the prompt were not computed for this sample (None: it has not
    begun). `level` is its class, as it had risen when it was let in; `lent` that of the most urgent that wait for its
    pages. `preempted` counts how often it gave way; the first `computed` of its tokens had been computed when it did.
    `rank` is its place in the queue. `awaited` is the running sample whose pages it waits for, as long as that one has
    fewer than `awaited_tokens`; that one is `awaited_by` it, and has its class until its own prompt is computed (but
    for a ragged end: until those pages are) or who waits has gone away. `guess` are tokens that may follow, from
    `lookup`; `guessed` of the planned tokens are such.
    `head` is what `Sequences.head` found, once that is for good. `pinned_until` is set at its end: so long its pages
    are to stay. `mu` is Mirostat's state.
    """

    __slots__ = (
        "ahead", "awaited", "awaited_by", "awaited_tokens", "cached_tokens", "computed", "drawing", "guess", "guessed",
        "head", "in_flight", "index", "lent", "level", "lookup", "mu", "phase", "pinned_until", "planned", "preempted",
        "rank", "request", "sequence", "tokens",
    )  # fmt: skip

    def __init__(self, request: Request, index: int) -> None:
        self.request = request
        self.index = index
        self.phase = PENDING
        self.tokens: list[TokenId] = []
        self.drawing: list[FromStep] = []
        self.sequence: int | None = None
        self.planned = 0
        self.ahead = 0
        self.in_flight = 0
        self.cached_tokens: int | None = None
        self.level = self.lent = int(request.priority)
        self.preempted = 0
        self.computed = 0
        self.rank: Rank = (0, 0, 0, 0, 0)
        self.awaited: Sample | None = None
        self.awaited_tokens = 0
        self.awaited_by: dict[Sample, int] = {}
        self.lookup: Lookup | None = None
        self.guess: tuple[TokenId, ...] = ()
        self.guessed = 0
        self.pinned_until = 0.0
        self.head: tuple[str, tuple[TokenId, ...]] | None = None
        self.mu: float | None = None

    def take(self, tokens: Sequence[TokenId]) -> tuple[int, FinishReason | None]:
        """Append drawn tokens as far as the sample goes; how many, and why it ends if it does."""
        for count, token in enumerate(tokens):
            if token in self.request.stop_ids:
                return count, FinishReason.STOP
            self.tokens.append(token)
            if len(self.tokens) >= self.request.limit:
                return count + 1, FinishReason.LENGTH
        return len(tokens), None

    def make_guess(self, most: int, odds: float) -> None:
        """Guess at most `most` tokens, each at least so likely right; one fewer than may still be drawn."""
        if self.request.stepwise:
            return
        if self.lookup is None:
            self.lookup = Lookup()
        self.guess = self.lookup.guess(self.tokens, min(most, self.request.limit - len(self.tokens) - 1), odds)

    def wait_for(self, other: Sample, tokens: int) -> None:
        """It waits for the first `tokens` of `other`'s tokens, and lends it its class meanwhile."""
        self.awaited, self.awaited_tokens = other, tokens
        self.lend(self.request.priority)

    def lend(self, level: int) -> None:
        """Whom it waits for shares the class to which it has risen."""
        other = self.awaited
        assert other is not None
        other.awaited_by[self] = level
        other.lent = min(other.lent, level)

    def go_away(self) -> None:
        """It waits no more, and takes back what it lent."""
        other, self.awaited = self.awaited, None
        if other is not None and other.awaited_by.pop(self, None) == other.lent:
            other.lent = min([other.request.priority, *other.awaited_by.values()])

    def forget_who_waits(self) -> None:
        """Its prompt is computed, or it runs no more: nobody lends it anything."""
        self.awaited_by.clear()
        self.lent = self.request.priority

    @property
    def order(self) -> tuple[int, int]:
        """Arrival, then sample."""
        return (self.request.arrival, self.index)

    @property
    def urgency(self) -> int:
        """Its class. While its prompt is not computed, that of who waits for that."""
        return self.level if self.planned >= self.request.prompt_length else min(self.level, self.lent)

    @property
    def longest(self) -> int:
        """Tokens of its answer if nothing but its limit ends it."""
        return self.request.limit - self.request.prompt_length

    @property
    def protected(self) -> bool:
        """It has given way often enough."""
        return self.preempted >= MAX_PREEMPTIONS

    @property
    def total(self) -> int:
        """Tokens of the sequence, those being drawn included."""
        return len(self.tokens) + len(self.drawing)

    @property
    def wanted(self) -> int:
        """Tokens to put into coming steps. At its limit a sample draws no more, so its last token is never run."""
        total, request = len(self.tokens) + len(self.drawing), self.request
        return total - self.planned if total < request.limit else max(request.prompt_length - self.planned, 0)

    def is_late(self, promise: Promise, now: float) -> bool:
        """Whether its first token can no longer come in time. While it waits, what it found in the cache when it joined
        the queue is not to be computed. One that has its first token is not late, nor one that another waits for."""
        request = self.request
        if len(self.tokens) > request.prompt_length or self.awaited_by:
            return False
        wanted = len(self.tokens) + self.rank[2] if self.phase is WAITING else request.prompt_length - self.planned
        return is_late(promise, now - request.arrived, wanted)

    def next_tokens(self, count: int) -> tuple[TokenId | FromStep, ...]:
        """The next `count` tokens to run."""
        first, known = self.planned, len(self.tokens)
        if count == 1:
            return (self.tokens[first] if first < known else self.drawing[first - known],)
        if first >= known:
            return tuple(self.drawing[first - known : first - known + count])
        rows: tuple[TokenId | FromStep, ...] = tuple(self.tokens[first : first + count])
        return rows + tuple(self.drawing[: first + count - known]) if first + count > known else rows


class Request:
    """One request and its `samples`, by index. `limit` is the longest a sequence of it may get, in tokens.

    `base` is a sequence that keeps the prompt's pages for the samples in `heirs`, which have not been forked yet.
    `drawn` turns true when the row that draws the first tokens is planned. `open` counts the samples that have not
    ended. `arrived` is the time it came; `account` counts for its tenant. `stepwise`: what draws a token must know
    the one before it, so none of its rows is planned while that is being drawn, and nothing is guessed. `streams`: it
    asks for one sample, and is not `stepwise`. It `reads` and `writes` pages of the cache.
    `entries` are the log-probabilities of the prompt's tokens, until they are handed out; `looks`: rows of the prompt
    are looked at, no more than `longest_chunk` in a step.
    """

    __slots__ = (
        "account", "arrival", "arrived", "base", "drawn", "engine_request", "entries", "heirs", "limit",
        "longest_chunk", "looks", "open", "params", "pooling", "priority", "prompt_length", "reads",
        "request_id", "samples", "stepwise", "stop_ids", "streams", "tail", "writes",
    )  # fmt: skip

    def __init__(
        self, request: EngineRequest, arrival: int, context_length: int, account: Account, arrived: float
    ) -> None:
        params = request.sampling
        self.engine_request, self.params = request, params
        self.account = account
        self.arrived = arrived
        self.priority = int(request.priority)
        self.request_id = request.request_id
        self.arrival = arrival
        self.prompt_length = len(request.prompt)
        longest = context_length if params.max_tokens is None else self.prompt_length + params.max_tokens
        self.pooling = request.pooling
        self.limit = self.prompt_length if self.pooling is not None else min(longest, context_length)
        self.entries = _no_entries(request)
        self.looks = self.pooling is not None or self.entries is not None
        self.longest_chunk = context_length if self.entries is None else LONGEST_LOOK
        self.stop_ids = request.stop_token_ids | frozenset(params.stop_token_ids)
        self.tail = history_tail(params)
        self.stepwise = params.grammar is not None or bool(params.mirostat and params.temperature)
        self.reads = request.cache is not CacheMode.OFF and not request.whole
        self.writes = request.cache is CacheMode.READ_WRITE
        self.streams = params.n == 1 and not self.stepwise
        self.samples = [Sample(self, index) for index in range(params.n)]
        self.samples[0].tokens = list(request.prompt)
        self.open = params.n
        self.base: int | None = None
        self.heirs: set[int] = set()
        self.drawn = False
        if any(request.resume) or request.ended:
            self._take_up(request)

    def _take_up(self, request: EngineRequest) -> None:
        """Every sample goes on by itself after what was handed out before, as if it had given way."""
        self.drawn = True
        for sample, tokens in zip(self.samples, request.resume, strict=True):
            sample.tokens = [*request.prompt, *tokens]
            sample.mu = request.mus[sample.index] if request.mus else None
            if sample.index in request.ended:
                sample.phase = ENDED
                self.open -= 1

    @property
    def first(self) -> list[Sample]:
        """The samples to begin with: the one that computes the prompt for all, or those that go on by themselves."""
        complete = self.complete
        return [s for s in self._resumed if s not in complete] if self.drawn else self.samples[:1]

    @property
    def complete(self) -> list[Sample]:
        """Samples that would go on after an answer of full length."""
        return [s for s in self._resumed if self.prompt_length < len(s.tokens) >= self.limit]

    @property
    def _resumed(self) -> list[Sample]:
        return [s for s in self.samples if s.phase is PENDING] if self.drawn else []

    @property
    def begun(self) -> bool:
        """Whether a sample of it has had a sequence."""
        return any(sample.cached_tokens is not None for sample in self.samples)

    def all_end(self) -> list[Sample]:
        """The samples that have not ended, all of which are to end now: nobody takes over."""
        self.drawn = True
        return [s for s in self.samples if s.phase is not ENDED]

    # --- what is looked at ------------------------------------------------------------------------------------

    def looks_at(self, sample: Sample, first: int, count: int) -> tuple[tuple[int, RowUse], ...]:
        """Of the sample's next `count` rows from position `first` on, those of the prompt that are looked at."""
        last, request = self.prompt_length - 1, self.engine_request
        if self.pooling is not None:
            start = first if self.pooling is Pooling.MEAN else max(first, last)
            return tuple((at - first, PooledRow(self.request_id)) for at in range(start, min(first + count, last + 1)))
        if self.entries is None or sample.index:
            return ()
        prompt, alternatives = request.prompt, request.prompt_logprobs or 0
        return tuple(
            (at - first, PromptToken(prompt[at + 1], alternatives)) for at in range(first, min(first + count, last))
        )

    def see(self, planned: PlannedSequence, rows: Sequence[RowResult]) -> Exception | None:
        """Take in what was looked at; what was wrong with a row of it, if anything."""
        for (at, use), row in zip(planned.outputs, rows, strict=True):
            if isinstance(use, PlannedSampling):
                continue
            if row.error is not None:
                return row.error
            if self.entries is not None and isinstance(use, PromptToken):
                self.entries[planned.first_position + at + 1] = row.logprobs[0]
        return None

    def take_entries(self, index: int) -> Entries:
        """The log-probabilities of the prompt, for the first event of sample 0; nothing otherwise."""
        if self.entries is None or index:
            return ()
        entries, self.entries = tuple(self.entries), None
        return entries

    def pass_lead(self, lead: Sample) -> Sample:
        """`lead`, which computes the prompt for all, is to end. Lets another sample that has not begun have its place:
        the two swap indices, and the one returned is the one to end."""
        if self.drawn or lead.phase is PENDING:
            return lead
        heir = next((s for s in self.samples if s.phase is PENDING), None)
        if heir is None:
            return lead
        lead.index, heir.index = heir.index, lead.index
        self.samples[lead.index], self.samples[heir.index] = lead, heir
        return heir

    def sampling(self, sample: Sample, tokens: list[TokenId], position: int) -> PlannedSampling:
        """How to draw `sample`'s token at `position`, after `tokens` and what the sample is still drawing."""
        request = self.engine_request
        history = tuple(tokens if self.tail < 0 else tokens[-self.tail :]) if self.tail else ()
        pending = sample.drawing[-1] if sample.drawing and self.tail else None
        constraint = None
        if request.sampling.grammar is not None:
            constraint = Constraint(self.request_id, sample.index, tuple(tokens[self.prompt_length :]))
        breakers = request.dry_breaker_ids if self.tail else ()
        return PlannedSampling(
            request.sampling, sample.index, position, history, pending, breakers, constraint, sample.mu
        )


def _no_entries(request: EngineRequest) -> list[tuple[Logprob, ...]] | None:
    """Room for what is asked for about the prompt, unless it was handed out before a crash."""
    handed_out = 0 in request.ended or bool(request.resume and request.resume[0])
    return None if request.prompt_logprobs is None or handed_out else [()] * len(request.prompt)


def history_tail(params: SamplingParams) -> int:
    """How many of the last tokens the sampler chain looks at: 0 for none, -1 for all."""
    tails = []
    penalties = params.repeat_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0
    if penalties and SamplerStage.PENALTIES in params.chain:
        tails.append(params.repeat_last_n)
    if params.dry_multiplier != 0 and SamplerStage.DRY in params.chain:
        tails.append(params.dry_penalty_last_n)
    return -1 if -1 in tails else max(tails, default=0)
