"""Integer products cost no quality: perplexity of the bundled model in each format, and with float32 products."""

from __future__ import annotations

import pytest

from plait import Model
from plait.formats.hub import resolve_model
from plait.formats.open import open_model
from support.scripts import load_script

perplexity = load_script("perplexity")
BOUND = 0.005


def difference(name: str, sequences: list[list[int]]) -> float:
    return abs(float(perplexity.measure(open_model(resolve_model(None)), name, sequences, 2).difference))


@pytest.fixture(scope="module")
def a_little() -> list[list[int]]:
    return list(perplexity.own_text(Model.load(), 512))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K"])
def test_a_few_hundred_tokens(name: str, a_little: list[list[int]]) -> None:
    assert difference(name, a_little) < BOUND


@pytest.fixture(scope="module")
def text() -> list[list[int]]:
    return list(perplexity.own_text(Model.load(), 3000))


@pytest.mark.slow
@pytest.mark.parametrize("name", perplexity.FORMATS)
def test_three_thousand_tokens(name: str, text: list[list[int]]) -> None:
    assert difference(name, text) < BOUND


def test_other_weights_are_told_apart(a_little: list[list[int]]) -> None:
    """The measure sees what it should: two bits a weight are not eight."""
    source = open_model(resolve_model(None))
    rough = perplexity.perplexity(perplexity.requantised(source, "Q2_K"), a_little, 2)
    assert rough > 1.5 * perplexity.perplexity(source, a_little, 2)
