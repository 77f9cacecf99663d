"""A step that raises is run again by halves: copies that it asked for are not done a second time, when the step's own
rows may have overwritten what they copy from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from plait.cache.config import CacheConfig
from plait.cache.edits import GroupEdits
from plait.cache.kv import KVCache
from plait.engine.core import Engine
from plait.engine.runner import Runner
from plait.errors import StepError
from plait.formats.tensor import F32Array
from plait.ops.api import I32Array, StepInputs
from plait.ops.sampling import Sampled, SampleRow
from plait.scheduler.limits import Limits
from plait.scheduler.plan import PlannedSampling, PlannedSequence, StepPlan
from plait.scheduler.scheduler import Scheduler
from plait.types import EngineRequest, FinishReason, SamplingParams, TokenEvent

SIZE = 4
VOCAB = 50
PARAMS = SamplingParams(seed=1)


@dataclass
class PathDevice:
    """Real paged memory under a formula: a row's logits name a hash of the tokens and positions that its page table
    leads to. It raises, after the step has done all its work, while a token of `raises_on` is in the batch."""

    raises_on: frozenset[int] = frozenset()
    memory: dict[int, tuple[int, int]] = field(default_factory=dict)  # slot: token, position
    copies: int = 0
    raised: int = 0

    def run(self, step: StepInputs) -> F32Array:
        (kv,) = step.kv
        for copy in kv.copies:
            self.copies += 1
            for i in range(copy.count):
                self.memory[copy.dst + i] = self.memory[copy.src + i]
        for move in kv.repositions:
            self.memory[move.slot] = (self.memory[move.slot][0], move.position)
        for row, slot in zip(kv.store_row, kv.store_slot, strict=True):
            self.memory[int(slot)] = (int(step.tokens[row]), int(step.positions[row]))
        if self.raises_on.intersection(step.tokens.tolist()):
            self.raised += 1
            raise FloatingPointError("a device that cannot bear this token")
        return np.array([[self._digest(step, int(row))] for row in step.out_rows], np.float32).reshape(-1, 1)

    def _digest(self, step: StepInputs, row: int) -> int:
        (kv,), seq = step.kv, step.row_seq[row]
        entries = kv.entries[kv.entry_start[seq] : kv.entry_start[seq + 1]].tolist()
        path = [self.memory[page * SIZE + first + i] for page, first, count in entries for i in range(count)]
        seen = [cell for cell in path if cell[1] <= step.positions[row]]
        return hash(tuple(seen)) % VOCAB

    def sample(self, logits: F32Array, picks: Sequence[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        draws = (random.Random(f"{row.params.seed} {row.sample_index} {row.position}").randrange(VOCAB) for row in rows)
        return [
            Sampled((int(logits[pick, 0]) + draw) % VOCAB, (), None) for pick, draw in zip(picks, draws, strict=True)
        ]

    def read_slots(self, group: int, slots: I32Array) -> bytes:
        raise NotImplementedError

    def write_slots(self, group: int, slots: I32Array, data: bytes) -> None:
        raise NotImplementedError

    def kv_bytes(self) -> int:
        return 0


# --- one step -----------------------------------------------------------------------------------------------------


def row(sequence: int, tokens: tuple[int, ...], first: int, table: tuple[tuple[int, int, int], ...]) -> PlannedSequence:
    """The last tokens of a table, each in its slot, and a draw after them."""
    slots = [page * SIZE + offset + i for page, offset, count in table for i in range(count)]
    draw = PlannedSampling(PARAMS, 0, first + len(tokens))
    return PlannedSequence(
        sequence, tokens, first, ((table[:-1], table[-1]),), (tuple(slots[first:]),), ((len(tokens) - 1, draw),)
    )


def drawn(device: PathDevice, plans: list[StepPlan]) -> list[tuple[object, ...]]:
    runner = Runner(device, 1)
    results = [runner.submit(plan).result() for plan in plans]
    runner.close()
    return [result.rows[i].tokens for result in results for i in range(len(result.rows))]


def two_steps(edits: GroupEdits) -> list[StepPlan]:
    """Sequence 0 has tokens in page 1. In the second step 1 goes on from a copy of them, in page 2, while 3, which
    cannot be borne, and 2 have been given page 1."""
    first = StepPlan(0, (row(0, (10, 11), 0, ((1, 0, 2),)),), (GroupEdits(),))
    second = (
        row(1, (12,), 2, ((2, 0, 3),)),
        row(2, (20, 21, 22), 0, ((1, 0, 3),)),
        row(3, (13,), 0, ((3, 0, 1),)),
    )
    return [first, StepPlan(1, second, (edits,))]


@pytest.mark.parametrize(
    "edits",
    [
        GroupEdits(copies=((4, 8, 2),)),
        GroupEdits(copies=((4, 8, 2), (12, 4, 2))),  # a copy's source is the next one's target
        GroupEdits(copies=((4, 8, 2),), repositions=((8, 5), (4, 7))),
    ],
    ids=["overwritten by a row", "overwritten by a copy", "moved"],
)
def test_what_a_copy_read_may_be_overwritten_by_the_step_that_raises(edits: GroupEdits) -> None:
    memory = {12: (40, 0), 13: (41, 1)}
    undisturbed = drawn(PathDevice(memory=dict(memory)), two_steps(edits))
    assert all(undisturbed)
    halved = drawn(PathDevice(frozenset({13}), dict(memory)), two_steps(edits))
    assert halved == [*undisturbed[:-1], ()]


def test_edits_are_done_once_however_often_a_step_is_halved() -> None:
    device = PathDevice(frozenset({13}))
    drawn(device, two_steps(GroupEdits(copies=((4, 8, 2),))))
    assert device.copies == 1


# --- through the scheduler ----------------------------------------------------------------------------------------


def random_requests(rng: random.Random, culprits: frozenset[int]) -> list[EngineRequest]:
    """Several samples each, whose forks copy the prompt's last page; some prompts hold a culprit's token."""
    requests = []
    for number in range(8):
        stem = tuple(range(100, 100 + rng.choice((3, 5, 6))))
        own = tuple(rng.randrange(VOCAB) for _ in range(rng.randrange(1, 6)))
        if rng.random() < 0.3:
            own = (*own, rng.choice(sorted(culprits)))
        sampling = SamplingParams(n=rng.choice((1, 2, 3)), max_tokens=rng.randrange(1, 14), seed=number)
        requests.append(EngineRequest(request_id=f"r{number}", prompt=stem + own, sampling=sampling))
    return requests


def served(device: PathDevice, requests: list[EngineRequest], rng: random.Random, in_flight: int, pages: int) -> dict:  # type: ignore[type-arg]
    limits = Limits(n_batch=rng.choice((8, 16, 64)), n_parallel=6, context_length=48)
    scheduler = Scheduler(KVCache(CacheConfig(SIZE, (pages,))), limits)
    engine = Engine(scheduler, Runner(device, 1), in_flight=in_flight)
    waiting, events = list(requests), list[TokenEvent]()
    while waiting or engine.has_work:
        while waiting and (rng.random() < 0.4 or not engine.has_work):
            engine.add(waiting.pop(0))
        events += engine.step()
        engine.check()
    engine.close()
    outcomes: dict[tuple[str, int], tuple[tuple[int, ...], object]] = {}
    for event in events:
        before, end = outcomes.get((event.request_id, event.index), ((), None))
        assert end is None, "an event after the final one"
        outcomes[event.request_id, event.index] = (
            before + event.tokens,
            event.finish_reason or (type(event.error) if event.error else None),
        )
    return outcomes


@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize("pages", [14, 20, 60])
def test_who_is_not_to_blame_has_the_tokens_of_an_undisturbed_run(in_flight: int, pages: int) -> None:
    culprits = frozenset({200, 201})
    copies = halvings = 0
    for seed in range(25):
        rng = random.Random(seed)
        requests = random_requests(rng, culprits)
        device = PathDevice(culprits)
        outcomes = served(device, requests, rng, in_flight, pages)
        copies, halvings = copies + device.copies, halvings + device.raised
        for request in requests:
            for index in range(request.sampling.n):
                tokens, end = outcomes[request.request_id, index]
                if culprits.intersection(request.prompt):
                    assert (tokens, end) == ((), StepError)
                    continue
                alone = served(PathDevice(), [request], random.Random(0), 0, 60)
                assert (tokens, end) == alone[request.request_id, index] == (tokens, FinishReason.LENGTH)
    assert copies > 50
    assert halvings > 50
