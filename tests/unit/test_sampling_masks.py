"""Token masks in the definition of `sample`."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import StepError
from plait.ops.sampling import Sampled, SampleRow, mask_words, sample_rows
from plait.types import SamplingParams


def mask_of(allowed: set[int], vocabulary: int) -> np.ndarray:
    mask = np.zeros(-(-vocabulary // 32), np.uint32)
    for token in allowed:
        mask[token // 32] |= np.uint32(1 << token % 32)
    return mask


def sample(logits: np.ndarray, params: SamplingParams, mask: np.ndarray | None) -> Sampled:
    return sample_rows(logits.astype(np.float32)[None], [SampleRow(params, 0, 3, (), (), mask)])[0]


@given(st.integers(1, 100), st.data())
def test_a_masked_row_is_the_row_with_minus_infinities(size: int, data: st.DataObject) -> None:
    allowed = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    temperature = data.draw(st.sampled_from([0.0, 0.8, 3.0]))
    params = SamplingParams(temperature=temperature, seed=data.draw(st.integers(0, 99)), logit_bias=((0, 2.0),))
    logits = np.random.default_rng(size).normal(0, 3, size)
    forbidden = np.array([token not in allowed for token in range(size)])
    masked = sample(logits, params, mask_of(allowed, size))
    assert masked.token in allowed
    assert masked.token == sample(np.where(forbidden, -np.inf, logits), params, None).token


def test_a_mask_that_allows_everything_changes_nothing() -> None:
    logits = np.random.default_rng(1).normal(0, 3, 70)
    params = SamplingParams(seed=3, logprobs=4)
    assert sample(logits, params, np.full(3, 0xFFFFFFFF, np.uint32)) == sample(logits, params, None)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_that_leaves_nothing_is_the_error_of_the_row(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=1, logit_bias=((0, 5.0),))
    logits = np.array([1.0, 2.0, -math.inf])
    for allowed in (set[int](), {2}):
        error = sample(logits, params, mask_of(allowed, 3)).error
        assert isinstance(error, StepError)
        assert str(error) == "the logits after the token mask are all -inf: no token can be chosen"
    assert sample(logits, params, mask_of({1}, 3)).token == 1


@pytest.mark.parametrize("words", [0, 1, 3])
def test_a_mask_for_another_vocabulary_is_the_error_of_the_row(words: int) -> None:
    error = sample(np.zeros(40), SamplingParams(seed=1), np.zeros(words, np.uint32)).error
    assert isinstance(error, StepError)
    assert f"has {words} words of 32 tokens; a vocabulary of 40 needs 2" in str(error)


def test_log_probabilities_are_those_before_the_mask() -> None:
    params = replace(SamplingParams(), temperature=0, logprobs=1)
    sampled = sample(np.array([0.0, 5.0]), params, mask_of({0}, 2))
    assert [entry.token for entry in sampled.logprobs] == [0, 1]
    assert sampled.logprobs[0].logprob == pytest.approx(-5 - math.log1p(math.exp(-5)))


@pytest.mark.parametrize(("vocabulary", "words"), [(1, 1), (32, 1), (33, 2), (128_256, 4008)])
def test_words_of_a_mask(vocabulary: int, words: int) -> None:
    assert mask_words(vocabulary) == words
