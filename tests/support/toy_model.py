"""A language model that is a formula over the token path, with real paged memory: it reads its path back from the
slots that a plan's page tables name, so bookkeeping that goes wrong gives wrong tokens, or none.

Token POISON makes a sequence fail; a path that ends in two DUDs gives a row without a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from plait.cache.config import CacheConfig
from plait.errors import StepError
from plait.scheduler.plan import FromStep, PlannedSampling, PlannedSequence, RowResult, StepPlan, StepResult
from plait.scheduler.request import history_tail
from plait.types import EngineRequest

VOCAB = 6
STOP = 0
DUD = 5
POISON = 9


def draw(path: Sequence[int], seed: int, sample_index: int) -> int | None:
    """The next token, None where the row fails. The position is part of the key, as in the real sampler. With every
    fifth seed the text repeats itself for most of the time."""
    if tuple(path[-2:]) == (DUD, DUD):
        return None
    if seed % 5 == 0 and len(path) % 7 and len(path) > 3:
        return path[-3]
    mixed = seed * 7919 + sample_index * 104729 + len(path) * 31
    for token in path:
        mixed = (mixed * 33 + token + 1) % 1_000_003
    return (mixed // 7) % VOCAB


@dataclass(frozen=True)
class Alone:
    """What a sample yields by itself: its tokens, and "stop", "length" or "error"."""

    tokens: tuple[int, ...]
    end: str


def alone(request: EngineRequest, index: int, context_length: int) -> Alone:
    params, path, new = request.sampling, list(request.prompt), []
    if POISON in path:
        return Alone((), "error")
    limit = context_length if params.max_tokens is None else min(len(path) + params.max_tokens, context_length)
    while len(path) < limit:
        token = draw(path, params.seed or 0, index)
        if token is None:
            return Alone(tuple(new), "error")
        if token in request.stop_token_ids:
            return Alone(tuple(new), "stop")
        path.append(token)
        new.append(token)
    return Alone(tuple(new), "length")


@dataclass
class ToyRunner:
    """Runs plans in the order of `run` calls."""

    config: CacheConfig
    rows_run: int = 0
    _memory: list[dict[int, tuple[int, int]]] = field(init=False)  # of each group: slot to (position, token)
    _drawn: dict[int, tuple[RowResult, ...]] = field(default_factory=dict)
    _dead: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._memory = [{} for _ in self.config.num_pages]

    def run(self, plan: StepPlan) -> StepResult:
        for memory, edits in zip(self._memory, plan.edits, strict=True):
            for source, target, count in edits.copies:
                assert not set(range(source, source + count)) & set(range(target, target + count))
                for i in range(count):
                    memory[target + i] = memory[source + i]
            assert not edits.repositions
        self._store(plan)
        rows: list[RowResult] = []
        failures: list[tuple[int, Exception]] = []
        for planned in plan.sequences:
            results, error = self._run_sequence(planned)
            rows += results
            if error is not None:
                failures.append((planned.sequence, error))
                self._dead.add(planned.sequence)
        self._drawn[plan.step] = tuple(rows)
        self.rows_run += plan.num_tokens
        return StepResult(plan.step, tuple(rows), 0.001, tuple(failures))

    def _store(self, plan: StepPlan) -> None:
        written: list[set[int]] = [set() for _ in self._memory]
        for planned in plan.sequences:
            tokens = self._tokens(planned)
            for memory, slots, seen in zip(self._memory, planned.slots, written, strict=True):
                assert len(slots) == len(tokens)
                for i, slot in enumerate(slots):
                    assert slot >= self.config.page_size, "page 0 is reserved"
                    assert slot not in seen, "two rows of a step write one slot"
                    seen.add(slot)
                    memory[slot] = (planned.first_position + i, tokens[i])

    def _run_sequence(self, planned: PlannedSequence) -> tuple[list[RowResult], Exception | None]:
        end = planned.first_position + len(planned.tokens)
        dead = planned.sequence in self._dead
        if dead or POISON in self._tokens(planned):
            error = StepError("poisoned")
            return [RowResult((), (), error)] * len(planned.outputs), error
        path = self._path(planned, 0)
        assert len(path) == end
        for group in range(1, len(self._memory)):
            shorter = self._path(planned, group)
            window = self.config.windows[group]
            assert len(shorter) >= min(end, end if window is None else window)
            assert path[end - len(shorter) :] == shorter
        return [
            self._row(path[: planned.first_position + row + 1], sampling) for row, sampling in planned.outputs
        ], None

    def _path(self, planned: PlannedSequence, group: int) -> list[int]:
        """The tokens that the page table leads to, their positions checked."""
        size = self.config.page_size
        before, last = planned.tables[group]
        entries = (*before, last)
        cells = [self._memory[group][page * size + first + i] for page, first, count in entries for i in range(count)]
        end = planned.first_position + len(planned.tokens)
        assert [position for position, _ in cells] == list(range(end - len(cells), end)), "memory holds another path"
        return [token for _, token in cells]

    def _row(self, path: list[int], sampling: PlannedSampling | None) -> RowResult:
        if sampling is None:
            return RowResult(())
        assert sampling.position == len(path)
        self._check_history(path, sampling)
        token = draw(path, sampling.params.seed or 0, sampling.sample_index)
        return RowResult((), (), StepError("dud")) if token is None else RowResult((token,))

    def _check_history(self, path: list[int], sampling: PlannedSampling) -> None:
        history = list(sampling.history)
        if sampling.pending is not None:
            history.append(self._token(sampling.pending))
        tail = history_tail(sampling.params)
        wanted = path if tail < 0 else path[max(0, len(path) - tail) :]
        assert history[len(history) - len(wanted) :] == wanted
        assert len(history) <= len(wanted) + 1

    def _tokens(self, planned: PlannedSequence) -> list[int]:
        return [self._token(t) if isinstance(t, FromStep) else t for t in planned.tokens]

    def _token(self, source: FromStep) -> int:
        tokens = self._drawn[source.step][source.output].tokens
        return tokens[0] if tokens else STOP
