"""Mirostat: what its state is for, and that it is a number which goes in and out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from plait.ops.mirostat import rank_of
from plait.ops.sampling import Sampled, SampleRow, sample_rows
from plait.types import SamplingParams

VOCAB = 500


def run(params: SamplingParams, steps: int, mu: float | None = None, first: int = 0) -> list[Sampled]:
    """A sample whose logits are Zipf's, shuffled anew at every position."""
    drawn = []
    for position in range(first, first + steps):
        logits = -1.1 * np.log(np.random.default_rng(position).permutation(VOCAB) + 1.0)
        drawn += sample_rows(logits[None].astype(np.float32), [SampleRow(params, 0, position, (), (), None, mu)])
        mu = drawn[-1].mu
    return drawn


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [2.0, 4.0])
def test_the_surprise_comes_near_its_target(version: int, tau: float) -> None:
    params = SamplingParams(mirostat=version, mirostat_tau=tau, seed=5, temperature=1.0)
    drawn = run(params, 600)
    # mu falls by eta * (surprise - tau) a token, so the mean surprise is what the way from mu to mu says.
    first, last = drawn[99].mu, drawn[-1].mu
    assert first is not None
    assert last is not None
    assert tau + (first - last) / (0.1 * 500) == pytest.approx(tau, rel=0.05)


@pytest.mark.parametrize("version", [1, 2])
def test_it_goes_on_where_its_state_is_given_back(version: int) -> None:
    params = SamplingParams(mirostat=version, seed=9)
    whole = run(params, 40)
    assert run(params, 20, whole[19].mu, 20) == whole[20:]


def test_the_state_starts_at_twice_the_target() -> None:
    params = SamplingParams(mirostat=2, mirostat_tau=3, seed=1)
    assert run(params, 5) == run(params, 5, mu=6.0)


def test_the_chain_is_the_temperature_alone() -> None:
    params = SamplingParams(mirostat=2, seed=1)
    assert run(params, 10) == run(replace(params, top_k=1, repeat_penalty=2.0), 10)


@pytest.mark.parametrize("version", [1, 2])
def test_without_a_temperature_it_has_no_part(version: int) -> None:
    (drawn,) = run(SamplingParams(mirostat=version, temperature=0), 1)
    assert drawn.mu is None
    assert drawn.error is None


def test_the_rank_where_the_formula_has_no_number() -> None:
    assert rank_of(np.zeros(1), 10.0, 1) == 1
    assert rank_of(np.zeros(5), 10.0, 5) == 1
    assert rank_of(-np.log(np.arange(1.0, 6.0)), 3.0, 5) >= 1  # exponent 1: share and excess are both 0
    assert rank_of(np.array([0.0, -50.0]), 5000.0, 2) == 2
