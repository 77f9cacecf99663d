"""The step-time model is found again from steps with noise and outliers, and stays positive."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.control.fit import StepTimeFit, solve_positive
from plait.control.steptime import StepTime

TRUE = StepTime(0.0004, 0.0001, 0.00008, 1e-7)


def shapes(rng: Random, count: int) -> list[tuple[int, int, int]]:
    """(decode rows, prompt tokens, key reads)"""
    made = []
    for _ in range(count):
        rows = rng.randrange(0, 32)
        prompt = rng.choice((0, 0, rng.randrange(1, 400)))
        made.append((rows + (rows + prompt == 0), prompt, rows * rng.randrange(800) + prompt * rng.randrange(800)))
    return made


@pytest.mark.parametrize("outliers", [0.0, 0.03])
def test_the_model_is_found(outliers: float) -> None:
    rng, fit = Random(1), StepTimeFit()
    for shape in shapes(rng, 600):
        factor = rng.lognormvariate(0, 0.05) * (8 if rng.random() < outliers else 1)
        fit.observe(*shape, TRUE.seconds(*shape) * factor)
    assert fit.model is not None
    for shape in shapes(rng, 50):
        assert fit.model.seconds(*shape) == pytest.approx(TRUE.seconds(*shape), rel=0.12 if outliers else 0.06)
    assert 1.0 < fit.spread < (1.5 if outliers else 1.2)


def test_what_is_not_seen_is_remembered() -> None:
    """After prompts, a long time of nothing but decoding: the cost of prompt tokens stays."""
    rng, fit = Random(2), StepTimeFit()
    for shape in shapes(rng, 300):
        fit.observe(*shape, TRUE.seconds(*shape))
    for _ in range(3000):
        fit.observe(6, 0, 1200, TRUE.seconds(6, 0, 1200) * rng.lognormvariate(0, 0.05))
    assert fit.model is not None
    assert fit.model.seconds(0, 300, 30_000) == pytest.approx(TRUE.seconds(0, 300, 30_000), rel=0.25)


def test_a_slower_machine_is_noticed() -> None:
    rng, fit = Random(3), StepTimeFit(TRUE)
    for shape in shapes(rng, 900):
        fit.observe(*shape, 4 * TRUE.seconds(*shape))
    assert fit.model is not None
    for shape in shapes(rng, 20):
        assert fit.model.seconds(*shape) == pytest.approx(4 * TRUE.seconds(*shape), rel=0.1)


def test_when_it_is_ready() -> None:
    assert StepTimeFit(TRUE).ready
    fit = StepTimeFit()
    fit.trust()
    assert not fit.ready
    fit.observe(1, 0, 5, 0.0)
    assert fit.model is None
    fit.observe(1, 0, 5, 0.01)
    fit.trust()
    assert fit.ready


@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.integers(0, 999), st.integers(0, 10**6), st.floats(1e-6, 10)), max_size=60
    )
)
def test_no_term_is_ever_negative(steps: list[tuple[int, int, int, float]]) -> None:
    fit = StepTimeFit()
    for rows, prompt, keys, seconds in steps:
        fit.observe(rows, prompt, keys, seconds)
        assert fit.model is not None
        assert min(fit.model.terms().values()) >= 0
        assert max(fit.model.terms().values()) < 1e4
        assert 1 <= fit.spread <= 1.5


@given(st.lists(st.lists(st.floats(-1, 1), min_size=4, max_size=4), min_size=6, max_size=12), st.randoms())
def test_positive_solutions_are_found(rows: list[list[float]], rng: Random) -> None:
    """Where the unconstrained solution is positive, it is the one."""
    truth = [rng.uniform(0.1, 2) for _ in range(4)]
    matrix = [[sum(r[i] * r[j] for r in rows) + (0.1 if i == j else 0) for j in range(4)] for i in range(4)]
    results = [sum(matrix[i][j] * truth[j] for j in range(4)) for i in range(4)]
    assert solve_positive(matrix, results) == pytest.approx(truth, rel=1e-6)
    assert min(solve_positive(matrix, [-result for result in results])) >= 0
