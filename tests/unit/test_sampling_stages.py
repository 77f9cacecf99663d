"""Each stage of the chain against the naive one of `naive_sampling`."""

from __future__ import annotations

import itertools

import naive_sampling as naive
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plait.errors import RequestError
from plait.ops import candidates as stages
from plait.ops.candidates import Candidates
from plait.ops.penalties import bias, dry, penalise
from plait.types import SamplingParams

# Multiples of 1/16, so that float32 and float64 agree on them and ties are frequent; few enough to be near the cuts.
grid = st.integers(-160, 160).map(lambda n: n / 16)
rows = st.lists(grid, min_size=1, max_size=40)
tokens = st.integers(0, 6)
histories = st.lists(tokens, max_size=30)
breakers = st.lists(st.lists(tokens, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple)


def whole(values: list[float]) -> Candidates:
    return Candidates(None, np.array(values, np.float32))


def as_dict(candidates: Candidates) -> dict[int, float]:
    ids = range(len(candidates.logits)) if candidates.ids is None else candidates.ids.tolist()
    assert list(ids) == sorted(ids)
    return dict(zip(ids, candidates.logits.tolist(), strict=True))


def naive_dict(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


@given(rows, st.integers(0, 45))
def test_top_k(values: list[float], k: int) -> None:
    assert as_dict(stages.top_k(whole(values), k)) == naive.top_k(naive_dict(values), k)


@pytest.mark.parametrize("size", [63, 64, 1000, 8192, 8200])
@pytest.mark.parametrize("count", [1, 40, 128, 512])
def test_largest_of_many(size: int, count: int) -> None:
    values = np.random.default_rng(size).integers(-50, 50, size).astype(np.float32)
    values[:7] = -np.inf
    expected = np.sort(np.argsort(-values, kind="stable")[:count])
    assert stages.largest(values, count).tolist() == expected.tolist()


@given(rows, st.floats(0, 1))
@example([0.0, 0.0, 0.0], 0.0)
@example([1.0, 1.0], 1.0)
def test_top_p(values: list[float], p: float) -> None:
    ours = stages.top_p(whole(values), p)
    _assert_same_cut(as_dict(ours), naive.top_p(naive_dict(values), p), values, p)


@given(rows, st.sampled_from([-1.0, 0.0, 0.37, 1.013, 2.0, 9.0]))
def test_top_n_sigma(values: list[float], n: float) -> None:
    ours, theirs = as_dict(stages.top_n_sigma(whole(values), n)), naive.top_n_sigma(naive_dict(values), n)
    least = max(values) - n * float(np.std(values))
    assert ours == theirs or any(abs(value - least) < 1e-9 for value in values)


def test_top_n_sigma_leaves_what_is_impossible_out_of_the_deviation() -> None:
    left = as_dict(stages.top_n_sigma(whole([0.0, -1.0, -4.0, -np.inf]), 1.0))
    assert left == {0: 0.0, 1: -1.0}


@given(rows, st.sampled_from([0.0, 0.013, 0.09, 0.29, 0.5, 0.51]))
def test_xtc(values: list[float], threshold: float) -> None:
    ours, theirs = as_dict(stages.xtc(whole(values), threshold)), naive.xtc(naive_dict(values), threshold)
    assert ours == theirs or any(abs(q - threshold) < 1e-12 for q in naive.softmax(naive_dict(values)).values())


@given(rows, st.floats(0, 1))
def test_typical_p(values: list[float], p: float) -> None:
    ours, theirs = as_dict(stages.typical_p(whole(values), p)), naive.typical_p(naive_dict(values), p)
    probs = naive.softmax(naive_dict(values))
    # Two tokens equally far from the entropy may change places by rounding: the mass kept is what is defined.
    assert ours
    assert sum(probs[t] for t in ours) == pytest.approx(sum(probs[t] for t in theirs), abs=1e-9) or _near(theirs, probs)


def _near(kept: dict[int, float], probs: dict[int, float]) -> bool:
    entropy = -sum(q * np.log(q) for q in probs.values() if q > 0)
    distances = sorted(abs(-np.log(q) - entropy) for q in probs.values() if q > 0)
    return any(b - a < 1e-9 for a, b in itertools.pairwise(distances)) or len(kept) == len(probs)


def _assert_same_cut(ours: dict[int, float], theirs: dict[int, float], values: list[float], p: float) -> None:
    if ours.keys() == theirs.keys():
        return
    # A sum within rounding of p may fall on either side.
    probs = naive.softmax(naive_dict(values))
    masses = [sum(probs[t] for t in kept) for kept in (ours, theirs)]
    assert min(masses) == pytest.approx(p, abs=1e-12)
    assert abs(len(ours) - len(theirs)) == 1


@given(rows, st.sampled_from([0.0, 0.01, 0.05, 0.3, 0.999, 1.0]))
def test_min_p(values: list[float], p: float) -> None:
    assert as_dict(stages.min_p(whole(values), p)).keys() == naive.min_p(naive_dict(values), p).keys()


@given(rows, st.floats(0.01, 5))
def test_temperature(values: list[float], t: float) -> None:
    ours = stages.temperature(whole(values), t).logits
    assert np.allclose(ours, np.array(values) / t)


def test_temperature_near_zero_stays_finite() -> None:
    assert np.isfinite(stages.temperature(whole([3e38, -3e38, 1.0]), 5e-324).logits).all()


@given(st.lists(grid, min_size=7, max_size=7), histories, st.integers(-1, 35))
def test_penalties(values: list[float], history: list[int], last_n: int) -> None:
    params = SamplingParams(repeat_penalty=1.25, frequency_penalty=0.5, presence_penalty=-0.25, repeat_last_n=last_n)
    ours = as_dict(penalise(whole(values), params, history))
    assert ours == pytest.approx(naive.penalties(naive_dict(values), params, history), abs=1e-5)


@given(
    st.lists(grid, min_size=7, max_size=7), histories, breakers, st.integers(0, 4), st.integers(-1, 35),
    st.sampled_from([1.0, 1.5, 2.0]),
)  # fmt: skip
def test_dry(
    values: list[float], history: list[int], stops: tuple[tuple[int, ...], ...], allowed: int, last_n: int, base: float
) -> None:
    params = SamplingParams(
        dry_multiplier=0.5, dry_base=base, dry_allowed_length=allowed, dry_penalty_last_n=last_n
    )  # fmt: skip
    ours = as_dict(dry(whole(values), params, history, stops))
    assert ours == pytest.approx(naive.dry(naive_dict(values), params, history, stops), rel=1e-5, abs=1e-5)


def test_dry_caps_the_exponent_where_float32_ends() -> None:
    params = SamplingParams(dry_multiplier=0.5, dry_base=4.0, dry_allowed_length=2)
    ours = dry(whole([0.0, 0.0]), params, [1] * 500, ()).logits
    assert ours[0] == 0
    assert ours[1] == np.float32(-0.5 * 4.0**63)  # 63 = floor(ln(max float32) / ln 4)


@given(st.lists(grid, min_size=7, max_size=7), histories)
def test_penalties_and_dry_on_a_part_of_the_vocabulary(values: list[float], history: list[int]) -> None:
    params = SamplingParams(repeat_penalty=1.25, dry_multiplier=0.5, dry_allowed_length=1)
    index = np.array([0, 2, 3, 6])
    full = dry(penalise(whole(values), params, history), params, history, ())
    part = dry(penalise(whole(values).keep(index), params, history), params, history, ())
    assert as_dict(part) == as_dict(full.keep(index))


def test_tokens_outside_the_vocabulary_are_not_penalised() -> None:
    params = SamplingParams(repeat_penalty=2.0)
    assert penalise(whole([1.0, 1.0]), params, [1, 7, -1]).logits.tolist() == [1.0, 0.5]


def test_bias_adds_up_and_leaves_the_input_alone() -> None:
    given_row = whole([1.0, 2.0, 3.0])
    assert bias(given_row, ((0, 1.0), (0, 1.0), (2, float("-inf")))).logits.tolist() == [3.0, 2.0, float("-inf")]
    assert given_row.logits.tolist() == [1.0, 2.0, 3.0]


def test_bias_of_an_unknown_token_is_refused() -> None:
    with pytest.raises(RequestError, match="token 3"):
        bias(whole([1.0, 2.0, 3.0]), ((3, 1.0),))


def test_draw_walks_the_candidates_in_token_order() -> None:
    candidates = Candidates(np.array([3, 5, 7, 9]), np.full(4, -1.5, np.float32))
    assert [stages.draw(candidates, u) for u in (0.0, 0.2499, 0.25, 0.5, 0.75, 1 - 2**-53)] == [3, 3, 5, 7, 9, 9]


def test_draw_never_takes_a_token_of_probability_zero() -> None:
    candidates = whole([float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")])
    assert [stages.draw(candidates, u) for u in (0.0, 0.5, 1 - 2**-53)] == [1, 3, 3]
