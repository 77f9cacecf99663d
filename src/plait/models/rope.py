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
