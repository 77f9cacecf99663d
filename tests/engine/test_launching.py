"""The runner that launches ahead gives the tokens that the plain one gives, whatever mixture of steps it meets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from plait.config import EngineOptions
from plait.engine.build import assemble_engine
from plait.errors import StepError
from plait.formats.open import open_model
from plait.models.registry import LoadedModel, load_model
from plait.ops.api import Executable, KVConfig, StepInputs
from plait.ops.reference import ReferenceBackend
from plait.ops.sampling import Sampled, SampleRow
from plait.types import EngineRequest, SamplingParams
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
