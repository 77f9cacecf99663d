"""Whole rows: the chain as data, the draw, log-probabilities, and errors that stay in their row."""

from __future__ import annotations

import math
from dataclasses import replace

import naive_sampling as naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import PlaitError, RequestError, StepError
from plait.ops.sampling import Sampled, SampleRow, sample_rows
from plait.types import LLAMA_CPP_CHAIN, OPENAI_CHAIN, SamplerStage, SamplingParams

VOCAB = 24

params_strategy = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 0.8, 1.0, 2.0]),
    top_k=st.integers(0, 30),
    top_p=st.sampled_from([0.0, 0.123, 0.7, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    typical_p=st.sampled_from([0.31, 1.0]),
    repeat_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    dry_multiplier=st.sampled_from([0.0, 0.8]),
    logit_bias=st.sampled_from([(), ((3, 2.0), (5, -math.inf))]),
    seed=st.integers(0, 2**64 - 1),
    samplers=st.permutations(LLAMA_CPP_CHAIN).map(tuple),
)


def logits_of(seed: int, rows: int = 1, vocab: int = VOCAB) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (rows, vocab)).astype(np.float32)


def sample(logits: np.ndarray, params: SamplingParams, position: int = 0, history: tuple[int, ...] = ()) -> Sampled:
    return sample_rows(logits.reshape(1, -1).astype(np.float32), [SampleRow(params, 0, position, history)])[0]


@given(params_strategy, st.integers(0, 1000), st.lists(st.integers(0, VOCAB - 1), max_size=20).map(tuple))
def test_the_token_is_one_of_the_naive_candidates(params: SamplingParams, seed: int, history: tuple[int, ...]) -> None:
    logits = logits_of(seed)[0]
    sampled = sample(logits, params, 5, history)
    assert sampled.error is None
    allowed = naive.run_chain(logits.tolist(), params, history)
    assert sampled.token in allowed
    assert allowed[sampled.token] > -math.inf


@given(st.lists(params_strategy, min_size=1, max_size=5), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_a_row_does_not_see_its_neighbours(params: list[SamplingParams], seed: int, random: object) -> None:
    logits = logits_of(seed, len(params))
    rows = [SampleRow(p, i, 7 * i, (1, 2, 1, 2, 1)) for i, p in enumerate(params)]
    alone = [sample_rows(logits[i : i + 1], [row])[0] for i, row in enumerate(rows)]
    assert sample_rows(logits, rows) == alone
    assert sample_rows(logits[::-1], rows[::-1]) == alone[::-1]


def test_inputs_are_left_as_they_were() -> None:
    logits = logits_of(1)
    before = logits.copy()
    logits.flags.writeable = False
    params = SamplingParams(seed=1, repeat_penalty=1.5, dry_multiplier=1, logit_bias=((0, 5.0),), logprobs=3)
    assert sample_rows(logits, [SampleRow(params, 0, 0, (1, 2, 1, 2))])[0].error is None
    assert (logits == before).all()


@pytest.mark.parametrize("chain", [LLAMA_CPP_CHAIN, OPENAI_CHAIN])
def test_draws_follow_the_naive_probabilities(chain: tuple[SamplerStage, ...]) -> None:
    params = SamplingParams(seed=11, temperature=1.5, top_k=8, top_p=0.9, min_p=0.02, samplers=chain)
    logits = logits_of(2)[0]
    draws = 8000
    expected = naive.softmax(naive.run_chain(logits.tolist(), params))
    rows = [SampleRow(params, 0, position, ()) for position in range(draws)]
    drawn = [s.token for s in sample_rows(np.broadcast_to(logits, (draws, VOCAB)), rows)]
    chi_square = sum((drawn.count(t) - draws * p) ** 2 / (draws * p) for t, p in expected.items())
    assert set(drawn) <= expected.keys()
    assert chi_square < _chi_square_999(len(expected) - 1)


def _chi_square_999(degrees: int) -> float:
    """The 99.9 % point, by Wilson and Hilferty's approximation."""
    h = 2 / (9 * degrees)
    return degrees * (1 - h + 3.0902 * math.sqrt(h)) ** 3


@pytest.mark.parametrize("other", [{"sample_index": 1}, {"position": 1}])
def test_samples_and_positions_draw_from_streams_of_their_own(other: dict[str, int]) -> None:
    params = SamplingParams(temperature=1, top_k=0, top_p=1, min_p=0)
    logits = np.zeros((200, 1000), np.float32)
    rows = [SampleRow(replace(params, seed=seed), 0, 0, ()) for seed in range(200)]
    first = [s.token for s in sample_rows(logits, rows)]
    second = [s.token for s in sample_rows(logits, [row._replace(**other) for row in rows])]
    assert first == [s.token for s in sample_rows(logits, rows)]
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 5


def test_the_order_of_the_chain_is_data() -> None:
    # At temperature 4 the distribution is so flat that top-p 0.5 keeps more, if it comes after.
    logits = np.array([4.0, 2.0, 1.0, 0.0])
    params = SamplingParams(temperature=4, top_k=0, top_p=0.5, min_p=0)
    kept = {}
    for chain in (LLAMA_CPP_CHAIN, OPENAI_CHAIN):
        ordered = replace(params, samplers=chain)
        kept[chain] = {sample(logits, replace(ordered, seed=seed)).token for seed in range(200)}
    assert kept[LLAMA_CPP_CHAIN] == {0}
    assert kept[OPENAI_CHAIN] == {0, 1}


def test_a_stage_that_is_not_named_does_not_run() -> None:
    params = SamplingParams(top_k=1, top_p=1, min_p=0, samplers=(SamplerStage.TEMPERATURE,))
    assert len({sample(np.zeros(VOCAB), replace(params, seed=seed)).token for seed in range(100)}) > 10


def test_greedy_takes_the_lowest_of_equal_logits() -> None:
    assert sample(np.array([1.0, 3.0, 3.0, 2.0]), SamplingParams(temperature=0)).token == 1


def test_greedy_follows_bias_and_penalties_and_nothing_else() -> None:
    logits = np.array([5.0, 4.9, 0.0, 0.0])
    plain = SamplingParams(temperature=0, typical_p=0.01)
    assert sample(logits, plain).token == 0
    assert sample(logits, replace(plain, repeat_penalty=1.5), history=(0,)).token == 1
    assert sample(logits, replace(plain, logit_bias=((2, 6.0),))).token == 2
    assert sample(logits, replace(plain, dry_multiplier=1), history=(0, 1, 0, 1)).token == 1
    assert sample(logits, replace(plain, repeat_penalty=1.5, samplers=()), history=(0,)).token == 0


def test_logprobs_are_those_of_the_raw_logits() -> None:
    logits = np.array([1.0, 3.0, 2.0, -math.inf])
    params = SamplingParams(temperature=0, logit_bias=((0, 10.0),), logprobs=5)
    reported = sample(logits, params).logprobs
    assert [entry.token for entry in reported] == [0, 1, 2, 0]
    probs = naive.softmax({0: 1.0, 1: 3.0, 2: 2.0})
    for entry in reported:
        assert entry.logprob == pytest.approx(math.log(probs[entry.token]), abs=1e-6)


@pytest.mark.parametrize(("asked", "length"), [(None, 0), (0, 1), (1, 2), (4, 5)])
def test_number_of_logprobs(asked: int | None, length: int) -> None:
    assert len(sample(logits_of(3)[0], SamplingParams(seed=1, logprobs=asked)).logprobs) == length


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("values", [[1.0, NAN, 2.0], [1.0, INF, 2.0], [-INF, -INF, -INF], [NAN, NAN, NAN]])
def test_bad_logits_are_the_error_of_their_row_alone(temperature: float, values: list[float]) -> None:
    params = SamplingParams(seed=1, temperature=temperature, typical_p=0.9, repeat_penalty=1.1, dry_multiplier=1)
    logits = np.array([[1.0, 2.0, 3.0], values, [3.0, 2.0, -INF]], np.float32)
    rows = [SampleRow(params, 0, 0, (0, 1, 0, 1))] * 3
    sampled = sample_rows(logits, rows)
    assert isinstance(sampled[1].error, StepError)
    assert (sampled[1].token, sampled[1].logprobs) == (-1, ())
    assert sampled[0] == sample_rows(logits[:1], rows[:1])[0]
    assert sampled[2] == sample_rows(logits[2:], rows[:1])[0]
    assert sampled[0].error is None is sampled[2].error


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(
    ("params", "error"),
    [
        (SamplingParams(seed=1, logit_bias=tuple((t, -INF) for t in range(3))), StepError),
        (SamplingParams(seed=1, logit_bias=((3, 1.0),)), RequestError),
        (SamplingParams(seed=1, logit_bias=((-1, 1.0),)), RequestError),
    ],
)
def test_parameters_that_leave_nothing_are_an_error_of_the_row(
    temperature: float, params: SamplingParams, error: type[PlaitError]
) -> None:
    params = replace(params, temperature=temperature, typical_p=0.5)
    logits = np.array([[-1.0, -2.0, -3.0]] * 2, np.float32)
    good = SampleRow(SamplingParams(seed=1), 0, 0, ())
    bad, fine = sample_rows(logits, [SampleRow(params, 0, 0, (0, 1, 2)), good])
    assert type(bad.error) is error
    assert fine.error is None


def test_a_draw_needs_a_seed() -> None:
    assert isinstance(sample(np.zeros(3), SamplingParams()).error, RequestError)
    assert sample(np.zeros(3), SamplingParams(temperature=0)).error is None


def test_a_large_vocabulary_agrees_with_the_naive_chain() -> None:
    logits = logits_of(9, vocab=20_000)[0]
    for params in (SamplingParams(), SamplingParams(top_k=0, top_p=0.97, min_p=0), SamplingParams(top_k=0, top_p=0.5)):
        allowed = naive.run_chain(logits.tolist(), params)
        drawn = {sample(logits, replace(params, seed=seed)).token for seed in range(60)}
        assert drawn <= allowed.keys()
