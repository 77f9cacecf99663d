"""Mirostat: draws so that the surprise of the tokens stays near a target (Basu et al., arXiv:2007.14966).

Knows candidates and parameters; a row's state, mu, comes in and goes out as a number. Formulas are llama.cpp's
(src/llama-sampler.cpp), in float64; a draw is by inverse CDF in token-id order, as everywhere.
"""

from __future__ import annotations

import math

import numpy as np

from plait.ops import candidates as stages
from plait.ops.candidates import Candidates
from plait.types import SamplingParams

ESTIMATED_FROM = 100
"""Most likely tokens from which version 1 estimates the distribution's exponent."""


def draw_mirostat(
    candidates: Candidates, params: SamplingParams, mu: float | None, uniform: float, vocabulary: int
) -> tuple[int, float]:
    """The token and the next mu. `mu` None is the beginning: twice the target."""
    mu = 2 * params.mirostat_tau if mu is None else mu
    left = thinned(candidates, params.mirostat, mu, vocabulary)
    token = stages.draw(left, uniform)
    surprise = -math.log2(_probability(left, token))
    return token, mu - params.mirostat_eta * (surprise - params.mirostat_tau)


def thinned(candidates: Candidates, version: int, mu: float, vocabulary: int) -> Candidates:
    """The candidates to draw from: version 1 keeps as many as its estimate of the distribution says, version 2 those
    whose surprise is at most `mu`, and the most likely one in any case."""
    return _by_rank(candidates, mu, vocabulary) if version == 1 else _by_surprise(candidates, mu)


def _by_rank(candidates: Candidates, mu: float, vocabulary: int) -> Candidates:
    logits = candidates.logits
    head = np.sort(logits[stages.largest(logits, min(ESTIMATED_FROM, len(logits)))])[::-1].astype(np.float64)
    head = head[head > -np.inf]
    return stages.top_k(candidates, rank_of(head, mu, vocabulary))


def rank_of(head: stages.F64Array, mu: float, vocabulary: int) -> int:
    """How many tokens keep the expected surprise below `mu`, if probabilities fall by Zipf's law with the exponent that
    `head` has, the logits of the most likely ones, largest first."""
    ratios = np.log(np.arange(2, len(head) + 1) / np.arange(1, len(head)))
    squares = float(np.square(ratios).sum())
    exponent = float((ratios * (head[:-1] - head[1:])).sum()) / squares if squares else 0.0
    if exponent == 0:
        return 1
    excess = exponent - 1
    with np.errstate(all="ignore"):
        share = 1 - np.float64(vocabulary) ** -excess
        k = float((excess * np.exp2(mu) / share) ** (1 / exponent))
    return 1 if math.isnan(k) else int(min(max(k, 1.0), float(vocabulary)))


def _by_surprise(candidates: Candidates, mu: float) -> Candidates:
    logits = candidates.logits
    weights = stages.weights_below(logits, float(logits.max()))
    kept = weights >= weights.sum() * 2.0**-mu
    kept[int(logits.argmax())] = True
    return candidates.keep(np.flatnonzero(kept))


def _probability(candidates: Candidates, token: int) -> float:
    weights = stages.weights_below(candidates.logits, float(candidates.logits.max()))
    at, _ = candidates.locate(np.array([token]))
    return float(weights[at[0]] / weights.sum())
