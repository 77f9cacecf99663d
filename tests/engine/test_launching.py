"""The runner that launches ahead gives the tokens that the plain one gives, whatever mixture of steps it meets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from plait.config import EngineOptions
from plait.engine.build import assemble_engine
from plait.engine.looking import OutputRows, decoding_uses
from plait.engine.runner import row_result, row_results, sample_row, sample_rows_of
from plait.errors import StepError
from plait.formats.open import open_model
from plait.models.registry import LoadedModel, load_model
from plait.ops.api import Executable, KVConfig, StepInputs
from plait.ops.reference import ReferenceBackend
from plait.ops.sampling import Sampled, SampleRow
from plait.scheduler.plan import FromStep, PlannedSampling, PlannedSequence, PooledRow, RowUse
from plait.types import EngineRequest, Logprob, SamplingParams
from support.tiny_llama import TinyLlama


class Done:
    seconds = 0.001

    def __init__(self, drawn: list[Sampled]) -> None:
        self._drawn = drawn

    def result(self) -> list[Sampled]:
        return self._drawn


class Launching:
    """The reference's executable, which computes at once but hands tokens out late, as a device does."""

    def __init__(self, executable: Executable) -> None:
        self.run, self.sample, self.kv_bytes = executable.run, executable.sample, executable.kv_bytes
        self.read_slots, self.write_slots = executable.read_slots, executable.write_slots
        self._drawn: list[Sampled] = []
        self.num_launched = self.num_plain = 0

    def launches(self, rows: Sequence[SampleRow]) -> bool:
        fits = all(row.params.logprobs is None for row in rows)
        self.num_plain += not fits
        return fits

    def launch(self, step: StepInputs, picks: Sequence[int], rows: Sequence[SampleRow]) -> Done:
        if (step.tokens == 13).any():
            raise StepError("thirteen")
        self.num_launched += 1
        tokens = [self._known(t) for t in step.tokens.tolist()]
        rows = [row._replace(history=[self._known(t) for t in row.history]) for row in rows]
        logits = self.run(replace(step, tokens=np.array(tokens, np.int32)))
        self._drawn = self.sample(logits, picks, rows) if rows else []
        return Done(self._drawn)

    def _known(self, token: int) -> int:
        return max(self._drawn[-1 - token].token, 0) if token < 0 else token


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(open_model(TinyLlama().save("safetensors", tmp_path_factory.mktemp("m"))))


def run(model: LoadedModel, requests: list[EngineRequest], launching: bool) -> tuple[dict[str, list[int]], object]:
    config = KVConfig(16, (64,), "f32")
    executable: object = ReferenceBackend().compile(model.program, config)
    if launching:
        executable = Launching(executable)  # type: ignore[arg-type]
    engine = assemble_engine(executable, model.kv, config, EngineOptions(n_parallel=4, n_batch=24), 256)  # type: ignore[arg-type]
    for request in requests:
        engine.add(request)
    tokens: dict[str, list[int]] = {request.request_id: [] for request in requests}
    for event in engine.run():
        tokens[event.request_id] += event.tokens
        if event.error is not None:
            tokens[event.request_id].append(-1)
    engine.close()
    return tokens, executable


def requests(count: int, **last: object) -> list[EngineRequest]:
    made = []
    for i in range(count):
        extra = last if i == count - 1 else {}
        params = SamplingParams(max_tokens=6 + i, temperature=0.9, seed=i, repeat_penalty=1.2, ignore_eos=True, **extra)  # type: ignore[arg-type]
        made.append(EngineRequest(request_id=str(i), prompt=tuple(range(1, 4 + 3 * i)), sampling=params))
    return made


def test_tokens_are_those_of_the_plain_runner(model: LoadedModel) -> None:
    asked = requests(5)
    tokens, executable = run(model, asked, launching=True)
    assert tokens == run(model, asked, launching=False)[0]
    assert executable.num_launched > 10  # type: ignore[attr-defined]
    assert executable.num_plain == 0  # type: ignore[attr-defined]


def test_steps_that_need_the_host_take_turns_with_launches(model: LoadedModel) -> None:
    asked = requests(5, logprobs=1)
    tokens, executable = run(model, asked, launching=True)
    assert tokens == run(model, asked, launching=False)[0]
    assert executable.num_launched > 3  # type: ignore[attr-defined]
    assert executable.num_plain > 3  # type: ignore[attr-defined]


def test_a_launch_that_fails_goes_the_plain_way(model: LoadedModel) -> None:
    """Token 13 is in every prompt that is long enough: those steps do not start, and nothing is lost."""
    asked = requests(5)
    assert any(13 in request.prompt for request in asked)
    tokens, _ = run(model, asked, launching=True)
    assert tokens == run(model, asked, launching=False)[0]


def test_rows_by_columns_are_those_one_by_one() -> None:
    """What is done for all sequences of a decoding step at once, against the same for each by itself."""
    rng = random.Random(1)
    params = [SamplingParams(seed=i) for i in range(3)]
    for trial in range(60):
        pending = FromStep(1, 2) if trial % 3 == 0 else None
        uses = [
            PlannedSampling(
                rng.choice(params), rng.randrange(3), rng.randrange(50), (4, 5), pending, ((1,),), None, 0.5
            )
            for _ in range(rng.randrange(5))
        ]
        assert sample_rows_of(uses, lambda source: 9) == [sample_row(use, lambda source: 9) for use in uses]
        drawn = [Sampled(rng.randrange(9), (), None, rng.choice([None, 0.5])) for _ in uses]
        if trial % 2 and drawn:
            drawn[0] = rng.choice([Sampled(-1, (), StepError("no")), Sampled(3, (Logprob(3, -0.5),), None)])
        assert row_results(drawn) == [row_result(one) for one in drawn]


def test_a_decoding_step_has_the_output_rows_that_any_step_has() -> None:
    def planned(sequence: int, *outputs: tuple[int, RowUse], rows: int = 1) -> PlannedSequence:
        return PlannedSequence(sequence, (1,) * rows, 3, (((), (1, 0, 4)),), ((4,) * rows,), outputs)

    draws = [PlannedSampling(SamplingParams(seed=i), 0, 4) for i in range(3)]
    alike = [planned(i, (0, draw)) for i, draw in enumerate(draws)]
    assert decoding_uses(alike) == draws
    fast, slow = OutputRows(alike), OutputRows([*alike, planned(9)])
    for name in ("uses", "picks", "wanted", "hidden_only"):
        assert getattr(fast, name) == getattr(slow, name)
    others = (planned(7), planned(7, (0, None)), planned(7, (0, PooledRow("r"))), planned(7, (1, draws[0]), rows=2),
              planned(7, (0, draws[0]), (0, draws[1])))  # fmt: skip
    for other in others:
        assert decoding_uses([*alike, other]) is None
