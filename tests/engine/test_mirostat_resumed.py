"""Mirostat's state goes out with the tokens, and a request taken up with it draws as if it had never stopped."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from plait.models.registry import LoadedModel, load_model
from plait.types import EngineRequest, SamplingParams, TokenEvent
from support.processes import Sample, outcomes, request, supervised
from support.serving import engine_of
from support.tiny_llama import VARIANTS


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(VARIANTS["gqa"].source("safetensors"))


def drawn(model: LoadedModel, asked: EngineRequest) -> tuple[list[list[int]], list[list[float | None]]]:
    """The tokens of each sample, and Mirostat's state after each token but the last."""
    engine = engine_of(model)
    engine.add(asked)
    samples = [Sample() for _ in range(asked.sampling.n)]
    mus = [list[float | None]() for _ in range(asked.sampling.n)]
    event: TokenEvent
    for event in engine.run():
        samples[event.index].tokens += event.tokens
        if not event.final:
            mus[event.index].append(event.mu)
    return [sample.tokens for sample in samples], mus


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kept", [1, 4, 11])
@pytest.mark.parametrize("n", [1, 2])
def test_it_goes_on_with_the_state_that_it_had(model: LoadedModel, version: int, kept: int, n: int) -> None:
    params = SamplingParams(
        mirostat=version, mirostat_tau=2.0, mirostat_eta=0.9, temperature=2.0, seed=5, n=n, max_tokens=24
    )
    asked = EngineRequest(request_id="a", prompt=(11, 12, 13), sampling=params)
    whole, mus = drawn(model, asked)
    assert all(mu is not None for sample in mus for mu in sample)
    assert all(len(set(sample)) > 20 for sample in mus), "the state moves with every token"
    resumed = replace(asked, resume=tuple(tuple(tokens[:kept]) for tokens in whole))
    taken_up, _ = drawn(model, replace(resumed, mus=tuple(sample[kept - 1] for sample in mus)))
    assert taken_up == [tokens[kept:] for tokens in whole]
    forgetful, _ = drawn(model, resumed)
    assert forgetful != taken_up, "the state makes no difference, so this test proves nothing"


def test_without_it_no_event_carries_a_state(model: LoadedModel) -> None:
    params = SamplingParams(temperature=1.0, seed=5, n=2, max_tokens=6)
    _, mus = drawn(model, EngineRequest(request_id="a", prompt=(11, 12), sampling=params))
    assert {mu for sample in mus for mu in sample} == {None}


def test_a_crash_changes_no_token() -> None:
    asked = [
        request(
            f"m{i}", range(5, 9 + i), mirostat=1 + i % 2, mirostat_tau=3.0, mirostat_eta=0.5, temperature=1.0,
            seed=i, max_tokens=300, n=1 + i % 2,
        )
        for i in range(6)
    ]  # fmt: skip

    async def main() -> None:
        async with supervised() as supervisor:
            undisturbed = await outcomes(supervisor, asked)
            running = asyncio.ensure_future(
                outcomes(supervisor, [replace(a, request_id=f"x{a.request_id}") for a in asked])
            )
            await asyncio.sleep(0.15)
            assert supervisor.pid is not None
            os.kill(supervisor.pid, signal.SIGKILL)
            assert await running == undisturbed
            assert supervisor.health().restarts == 1

    asyncio.run(main())
