"""Frequencies of rotary embeddings. Plain float64 numbers; knows no model file.

Pair i of a head of `dim` rotated elements turns by inv_freq[i] radians for each position.
"""

from __future__ import annotations

import math


def default_inv_freq(theta: float, dim: int) -> tuple[float, ...]:
    """theta ** (-2i / dim) for i in 0..dim/2-1 (RoFormer, arXiv:2104.09864, section 3.2.2)."""
    return tuple(theta ** (-2 * i / dim) for i in range(dim // 2))


def linear_inv_freq(inv_freq: tuple[float, ...], factor: float) -> tuple[float, ...]:
    """Position interpolation: every position counts 1 / factor (Chen et al., arXiv:2306.15595)."""
    return tuple(frequency / factor for frequency in inv_freq)


def llama3_inv_freq(
    inv_freq: tuple[float, ...], factor: float, low_factor: float, high_factor: float, original_context: int
) -> tuple[float, ...]:
    """Llama 3.1's scaling: slow pairs are interpolated by `factor`, fast ones kept, those between blended.

    With turns = original_context * inv_freq / 2 pi, the rotations of a pair within the original context: below
    `low_factor` turns f / factor, above `high_factor` f, between f * ((1 - s) / factor + s) where s runs from 0 to 1
    linearly in turns. Source: apply_scaling in Meta's llama-models (models/llama3/model.py)."""

    def scaled(frequency: float) -> float:
        turns = original_context * frequency / (2 * math.pi)
        share = (turns - low_factor) / (high_factor - low_factor)
        share = min(1.0, max(0.0, share))
        return frequency * ((1 - share) / factor + share)

    return tuple(scaled(frequency) for frequency in inv_freq)


def divided_inv_freq(inv_freq: tuple[float, ...], divisors: tuple[float, ...]) -> tuple[float, ...]:
    """Each frequency over its own divisor: how GGUF stores Llama 3's scaling, in the tensor rope_freqs.weight."""
    return tuple(frequency / divisor for frequency, divisor in zip(inv_freq, divisors, strict=True))


def yarn_inv_freq(
    theta: float,
    dim: int,
    factor: float,
    original_context: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    *,
    truncate: bool = True,
) -> tuple[float, ...]:
    """YaRN (Peng et al., arXiv:2309.00071, section 3.2): pairs that turn more than `beta_fast` times within the
    original context are kept, those that turn less than `beta_slow` times interpolated, those between blended by their
    number. `truncate` rounds the ends of the blend outwards to whole pairs, as its authors' code does."""

    def pair_of(turns: float) -> float:
        return dim * math.log(original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_of(beta_fast), pair_of(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)

    def blended(i: int, frequency: float) -> float:
        share = min(1.0, max(0.0, (i - low) / max(0.001, high - low)))
        return frequency * (1 - share) + frequency / factor * share

    return tuple(blended(i, frequency) for i, frequency in enumerate(default_inv_freq(theta, dim)))


def yarn_scale(factor: float, mscale: float = 1.0) -> float:
    """YaRN's attention factor, of which q and k each take one (arXiv:2309.00071, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1


def longrope_scale(factor: float, original_context: int) -> float:
    """LongRoPE's attention factor (Ding et al., arXiv:2402.13753; Microsoft's Phi-3)."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original_context))


def alibi_slopes(n_heads: int, max_bias: float = 8.0) -> tuple[float, ...]:
    """Press et al., arXiv:2108.12409: 2 ** (-max_bias * i / n) for i in 1..n, n the largest power of two of heads;
    further heads take every second slope of twice as many."""
    n = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-max_bias * i / n) for i in range(1, n + 1)]
    slopes += [2 ** (-max_bias * i / (2 * n)) for i in range(1, 2 * (n_heads - n), 2)]
    return tuple(slopes)
