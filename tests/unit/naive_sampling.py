"""The sampler chain written out with plain lists, as an independent second opinion: sort everything, loop over all."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plait.types import SamplerStage, SamplingParams

Logits = dict[int, float]
Breakers = tuple[tuple[int, ...], ...]


def softmax(logits: Logits) -> Logits:
    top = max(logits.values())
    weights = {token: math.exp(value - top) for token, value in logits.items()}
    total = sum(weights.values())
    return {token: weight / total for token, weight in weights.items()}


def penalties(logits: Logits, params: SamplingParams, history: Sequence[int]) -> Logits:
    n = params.repeat_last_n
    window = list(history) if n == -1 else list(history)[len(history) - min(n, len(history)) :]
    out = {}
    for token, value in logits.items():
        count = window.count(token)
        if count:
            value = value * params.repeat_penalty if value <= 0 else value / params.repeat_penalty
            value -= count * params.frequency_penalty + params.presence_penalty
        out[token] = value
    return out


def dry(logits: Logits, params: SamplingParams, history: Sequence[int], breakers: Breakers) -> Logits:
    """For every token: append it in thought, and look for the longest suffix of the history that stood before it."""
    n = params.dry_penalty_last_n
    window = list(history) if n == -1 else list(history)[len(history) - min(n, len(history)) :]
    if params.dry_multiplier == 0 or len(window) <= params.dry_allowed_length:
        return logits
    limit = _after_last_breaker(window, breakers)
    out = {}
    for token, value in logits.items():
        longest = -1
        for end in range(len(window) - 1):
            if window[end + 1] == token:
                length = 0
                while length <= end and window[end - length] == window[len(window) - 1 - length]:
                    length += 1
                longest = max(longest, min(length, limit))
        if longest >= params.dry_allowed_length and (token,) not in breakers:
            value -= params.dry_multiplier * params.dry_base ** (longest - params.dry_allowed_length)
        out[token] = value
    return out


def _after_last_breaker(window: list[int], breakers: Breakers) -> int:
    for start in reversed(range(len(window))):
        matching = [b for b in breakers if b and window[start : start + len(b)] == list(b)]
        if matching:
            return len(window) - start - max(len(b) for b in matching)
    return len(window)


def top_k(logits: Logits, k: int) -> Logits:
    ranked = sorted(logits, key=lambda token: (-logits[token], token))
    return {token: logits[token] for token in (ranked[:k] if k else ranked)}


def _until(logits: Logits, ranked: list[int], enough: float, strictly: bool) -> Logits:
    probs, kept, total = softmax(logits), {}, 0.0
    for token in ranked:
        kept[token] = logits[token]
        total += probs[token]
        if total > enough or (total == enough and not strictly):
            break
    return kept


def top_p(logits: Logits, p: float) -> Logits:
    if p >= 1:
        return logits
    return _until(logits, sorted(logits, key=lambda token: (-logits[token], token)), p, strictly=False)


def typical_p(logits: Logits, p: float) -> Logits:
    if p >= 1:
        return logits
    probs = {token: q for token, q in softmax(logits).items() if q > 0}
    entropy = -sum(q * math.log(q) for q in probs.values())
    return _until(logits, sorted(probs, key=lambda t: (abs(-math.log(probs[t]) - entropy), t)), p, strictly=True)


def min_p(logits: Logits, p: float) -> Logits:
    probs = softmax(logits)
    return {token: value for token, value in logits.items() if probs[token] >= p * max(probs.values())}


def top_n_sigma(logits: Logits, n: float) -> Logits:
    possible = [value for value in logits.values() if value > -math.inf]
    if n <= 0 or len(logits) < 2:
        return logits
    mean = sum(possible) / len(possible)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in possible) / len(possible))
    return {token: value for token, value in logits.items() if value >= max(possible) - n * deviation}


def xtc(logits: Logits, threshold: float) -> Logits:
    """Where the coin says yes."""
    probs = softmax(logits)
    ranked = sorted(logits, key=lambda token: (-logits[token], token))
    top = [token for token in ranked if probs[token] >= threshold and probs[token] > 0]
    if threshold > 0.5 or len(top) < 2:
        return logits
    return {token: value for token, value in logits.items() if token not in top[:-1]}


def run_chain(
    raw: Sequence[float], params: SamplingParams, history: Sequence[int] = (), breakers: Breakers = ()
) -> Logits:
    """The candidates after the whole chain, with their logits. Temperature above 0."""
    logits = dict(enumerate(raw))
    for token, value in params.logit_bias:
        logits[token] += value
    for stage in params.samplers:
        match stage:
            case SamplerStage.PENALTIES:
                logits = penalties(logits, params, history)
            case SamplerStage.DRY:
                logits = dry(logits, params, history, breakers)
            case SamplerStage.TOP_K:
                logits = top_k(logits, params.top_k)
            case SamplerStage.TYPICAL_P:
                logits = typical_p(logits, params.typical_p)
            case SamplerStage.TOP_P:
                logits = top_p(logits, params.top_p)
            case SamplerStage.MIN_P:
                logits = min_p(logits, params.min_p)
            case SamplerStage.TOP_N_SIGMA:
                logits = top_n_sigma(logits, params.top_n_sigma)
            case SamplerStage.XTC:
                if params.xtc_probability == 1:
                    logits = xtc(logits, params.xtc_threshold)
            case SamplerStage.TEMPERATURE:
                logits = {token: value / params.temperature for token, value in logits.items()}
    return logits
