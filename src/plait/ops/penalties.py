"""Logit changes that depend on the tokens so far: bias, repetition penalties, DRY.

Knows candidates and histories; does not choose tokens. Formulas are llama.cpp's (src/llama-sampler.cpp).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from plait.errors import RequestError
from plait.ops.candidates import Candidates, F64Array, IndexArray
from plait.types import SamplingParams

Breakers: TypeAlias = tuple[tuple[int, ...], ...]

_MAX_F32 = 3.4028234663852886e38
_LOG_MAX_F32 = 88.7228391
_LEAST_GROWTH = 1.000001
"""A DRY base up to this one cannot overflow, so its exponent is not clamped."""


def bias(candidates: Candidates, biases: tuple[tuple[int, float], ...]) -> Candidates:
    """Adds to the logits of the whole vocabulary. Raises RequestError for a token that is not in it."""
    if not biases:
        return candidates
    logits = candidates.logits.copy()
    for token, value in biases:
        if not 0 <= token < len(logits):
            raise unknown_bias(token, len(logits))
        logits[token] += logits.dtype.type(value)
    return candidates._replace(logits=logits)


def unknown_bias(token: int, vocabulary: int) -> RequestError:
    return RequestError(f"logit_bias names token {token}; the vocabulary is 0..{vocabulary - 1}")


def penalises(params: SamplingParams) -> bool:
    """Whether the repetition penalties change anything."""
    return params.repeat_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0


def penalise(candidates: Candidates, params: SamplingParams, history: Sequence[int]) -> Candidates:
    """For a token that occurs c > 0 times in the last `repeat_last_n` tokens: its logit divided by `repeat_penalty`
    (multiplied, if not positive; Keskar et al., arXiv:1909.05858), less c * frequency_penalty + presence_penalty."""
    window = last_tokens(history, params.repeat_last_n)
    if not penalises(params) or not len(window):
        return candidates
    tokens, counts = np.unique(window, return_counts=True)
    index, found = candidates.locate(tokens)
    logits = candidates.logits.copy()
    dtype = logits.dtype.type
    repeat, frequency, presence = dtype(params.repeat_penalty), params.frequency_penalty, params.presence_penalty
    old = logits[index]
    new = np.where(old <= 0, old * repeat, old / repeat)
    logits[index] = new - (counts[found].astype(logits.dtype) * dtype(frequency) + dtype(presence))
    return candidates._replace(logits=logits)


def dry(candidates: Candidates, params: SamplingParams, history: Sequence[int], breakers: Breakers) -> Candidates:
    """ "Don't repeat yourself" (p-e-w, oobabooga/text-generation-webui#5677): a token that would continue a repetition
    of n >= dry_allowed_length tokens loses dry_multiplier * dry_base ** (n - dry_allowed_length).

    A repetition is looked for in the last `dry_penalty_last_n` tokens and never reaches back over a breaker, a
    sequence of token ids. A token that is a breaker by itself is not penalised."""
    tokens, penalties = dry_penalties(params, history, breakers)
    if not len(tokens):
        return candidates
    index, found = candidates.locate(tokens)
    logits = candidates.logits.copy()
    logits[index] -= penalties[found].astype(logits.dtype)
    return candidates._replace(logits=logits)


def dry_penalties(params: SamplingParams, history: Sequence[int], breakers: Breakers) -> tuple[IndexArray, F64Array]:
    """The tokens that DRY penalises, each once, and what they lose."""
    lengths = _penalised_lengths(params, history, breakers)
    exponents: F64Array = np.fromiter(lengths.values(), np.float64) - params.dry_allowed_length
    penalties = np.minimum(params.dry_multiplier * params.dry_base**exponents, _MAX_F32)
    return np.fromiter(lengths.keys(), np.int64), penalties


def _penalised_lengths(params: SamplingParams, history: Sequence[int], breakers: Breakers) -> dict[int, int]:
    """By token: the length of the repetition that it would continue."""
    allowed = params.dry_allowed_length
    if params.dry_multiplier == 0:
        return {}
    window = last_tokens(history, params.dry_penalty_last_n)
    if len(window) <= allowed:
        return {}
    limit = _tokens_since_breaker(window, breakers)
    if limit < allowed:
        return {}
    # A float32 holds no more; a longer repetition is punished like one of this length.
    max_exponent = int(_LOG_MAX_F32 / math.log(params.dry_base)) if params.dry_base > _LEAST_GROWTH else 0
    if max_exponent:
        limit = min(limit, allowed + max_exponent)
    lengths = _repetitions(window, limit, allowed)
    for token, tails in _tails(breakers).items():
        if () in tails:
            lengths.pop(token, None)
    return lengths


def last_tokens(history: Sequence[int], count: int) -> IndexArray:
    """The last `count` tokens, oldest first; all of them when `count` is -1."""
    start = 0 if count < 0 else max(len(history) - count, 0)
    return np.array(history[start:], np.int64)


def _tokens_since_breaker(window: IndexArray, breakers: Breakers) -> int:
    """How many tokens follow the breaker that begins last (the longest, if several begin there)."""
    tails = _tails(breakers)
    size = len(window)
    if not tails:
        return size
    tokens = window.tolist()
    for start in range(size - 1, -1, -1):
        ends = [start + 1 + len(tail) for tail in tails.get(tokens[start], ())
                if tuple(tokens[start + 1 : start + 1 + len(tail)]) == tail]  # fmt: skip
        if ends:
            return size - max(ends)
    return size


@lru_cache(maxsize=64)
def _tails(breakers: Breakers) -> Mapping[int, list[tuple[int, ...]]]:
    """What follows the first token in each breaker, by first token."""
    tails: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)
    for breaker in breakers:
        if breaker:
            tails[breaker[0]].append(breaker[1:])
    return dict(tails)


def _repetitions(window: IndexArray, limit: int, allowed: int) -> dict[int, int]:
    """By token: the longest run (at most `limit`) that ends the window, also stands before the token somewhere
    earlier in it, and has at least `allowed` tokens."""
    last = len(window) - 1
    lengths = np.zeros(last, np.int64)  # lengths[j]: of the run that ends at j and at the window's end
    alive = np.arange(last)
    for step in range(min(limit, last)):
        alive = alive[alive >= step]
        alive = alive[window[alive - step] == window[last - step]]
        if not alive.size:
            break
        lengths[alive] = step + 1
    ends = np.flatnonzero(lengths >= allowed)
    ends = ends[np.argsort(lengths[ends], kind="stable")]  # the longest of a token comes last, and stays
    return dict(zip(window[ends + 1].tolist(), lengths[ends].tolist(), strict=True))
