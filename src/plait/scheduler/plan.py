"""The step contract: what the scheduler asks of the runner, and what it gets back. Plain data, ints only.

`handle = runner.submit(plan)`; `events = scheduler.commit(plan, handle.result())`. Immutable records, no numpy. What
there is one of for each row and step is a named tuple: a frozen dataclass takes five times as long to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from plait.cache.edits import GroupEdits
from plait.cache.table import Parted
from plait.types import Logprob, SamplingParams, TokenId

SequenceId: TypeAlias = int


class FromStep(NamedTuple):
    """A token the host does not know yet: the one that output row `output` (counted over the whole plan) of step
    `step` yields."""

    step: int
    output: int


class Constraint(NamedTuple):
    """Whose grammar the next token must keep to, and all that was drawn for it so far."""

    request_id: str
    sample: int
    tokens: tuple[TokenId, ...]


class PlannedSampling(NamedTuple):
    """How to sample one output row. `position` is the index in the sequence of the token to be drawn; the random
    number is keyed by (params.seed, sample_index, position). `history` are the tokens so far that the host knows
    (empty unless a stage of the chain looks at them); `pending` is the token it does not know yet, if any.
    `constraint` is there where the request has a grammar; `mu` is Mirostat's state, None at the beginning."""

    params: SamplingParams
    sample_index: int
    position: int
    history: tuple[TokenId, ...] = ()
    pending: FromStep | None = None
    dry_breaker_ids: tuple[tuple[TokenId, ...], ...] = ()
    constraint: Constraint | None = None
    mu: float | None = None


class PromptToken(NamedTuple):
    """A row whose distribution is looked at: how likely it makes `target`, the token that follows, and so many
    `alternatives`, the most likely tokens. Nothing is drawn."""

    target: TokenId
    alternatives: int


class PooledRow(NamedTuple):
    """A row whose hidden state is wanted, and no logits: for the embedding of that request."""

    request_id: str


RowUse: TypeAlias = PlannedSampling | PromptToken | PooledRow | None
"""What an output row is for; None is to compute its logits and no more."""


class PlannedSequence(NamedTuple):
    """The rows of one sequence: consecutive tokens at consecutive positions from `first_position`.

    `tables[g]` is the page table of KV group g up to and including these tokens, as (entries before the last, last
    entry), entries (page, first, count): of a sequence that decodes, as a rule, only the last is new in a step;
    `slots[g]` the slot of each row in group g. `outputs` are the rows (by index in `tokens`) that something is
    made of, each with what. The last `drafts` tokens are guesses: each row
    draws, and the scheduler takes the draws as far as the guesses were right."""

    sequence: SequenceId
    tokens: tuple[TokenId | FromStep, ...]
    first_position: int
    tables: tuple[Parted, ...]
    slots: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, RowUse], ...] = ()
    drafts: int = 0


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. `edits[g]` are done before anything else in group g. `prompt_tokens` rows compute tokens of prompts (or
    compute again what a preempted sequence had lost); the rest are decode rows."""

    step: int
    sequences: tuple[PlannedSequence, ...]
    edits: tuple[GroupEdits, ...]
    prompt_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(len(s.tokens) for s in self.sequences)


class RowResult(NamedTuple):
    """One output row: the tokens it yields (more than one with verified drafts), with their log-probabilities where
    asked for, or the error that this row alone suffered. `mu` is Mirostat's state after them.
    `hidden` is the state of a pooled row: numbers that only the engine looks at."""

    tokens: tuple[TokenId, ...]
    logprobs: tuple[tuple[Logprob, ...], ...] = ()
    error: Exception | None = None
    mu: float | None = None
    hidden: object = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """Results of the output rows, in the plan's order, and the seconds the step took, `sample_seconds` of them in
    drawing. `failures` are the sequences that failed as a whole, with or without output rows; the rows they have carry
    the same error."""

    step: int
    rows: tuple[RowResult, ...]
    seconds: float
    failures: tuple[tuple[SequenceId, Exception], ...] = ()
    sample_seconds: float = 0.0
