"""The formulas of the ops in plain numpy, row by row. Knows arrays; knows neither programs nor KV memory.

Every function works in the dtype of its inputs. Each row is computed by itself, so that a row's result never depends
on which rows stand beside it: numpy's matrix products differ in their last bits with the number of rows.
"""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from plait.ops.api import Activation, I32Array, Moe, Rope, RopeLayout

Array: TypeAlias = npt.NDArray[np.floating[Any]]
Partial: TypeAlias = tuple[Array, Array, Array]
"""Attention over some keys: the largest score, the sum of exp(score - largest), and the values weighted by it."""

KEY_BLOCK = 64
"""Keys in one attention partial (see `ops.api.Attention`)."""


def matmul(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """out[r] = weight @ x[r] + bias; x (rows, in), weight (out, in), bias (out,)."""
    out = np.empty((len(x), len(weight)), x.dtype)
    for r, row in enumerate(x):
        out[r] = weight @ row
        if bias is not None:
            out[r] += bias
    return out


def rms_norm(x: Array, weight: Array, eps: float, offset: float, groups: int) -> Array:
    """x / sqrt(mean(x^2) + eps) * (weight + offset), over each of `groups` equal parts of a row."""
    out = np.empty_like(x)
    for r, row in enumerate(x):
        parts = row.reshape(groups, -1)
        mean_square = np.mean(parts * parts, axis=1, keepdims=True)
        out[r] = (parts / np.sqrt(mean_square + x.dtype.type(eps)) * (weight + x.dtype.type(offset))).reshape(-1)
    return out


def layer_norm(x: Array, weight: Array, bias: Array | None, eps: float, groups: int = 1) -> Array:
    """(x - mean) / sqrt(var + eps) * weight + bias, with the biased variance, over each of `groups` equal parts of a
    row. weight and bias have the width of a part or, (parts, width) or in one piece, of the row."""
    gain, shift = (None if w is None else w.reshape(-1, x.shape[1] // groups) for w in (weight, bias))
    out = np.empty_like(x)
    for r, row in enumerate(x):
        parts = row.reshape(groups, -1)
        centred = parts - np.mean(parts, axis=1, keepdims=True)
        variance = np.mean(centred * centred, axis=1, keepdims=True)
        normed = centred / np.sqrt(variance + x.dtype.type(eps)) * gain
        out[r] = (normed if shift is None else normed + shift).reshape(-1)
    return out


def rotate(x: Array, positions: npt.NDArray[np.integer[Any]], rope: Rope) -> Array:
    """Rotates heads x (rows, heads, dim) by each row's position; elements past 2*len(inv_freq) pass unchanged.

    A pair (a, b) with angle t becomes (a cos t - b sin t, a sin t + b cos t) * scale (RoFormer, arXiv:2104.09864)."""
    n = len(rope.inv_freq)
    if rope.layout is RopeLayout.INTERLEAVED:
        first, second = slice(0, 2 * n, 2), slice(1, 2 * n, 2)
    else:
        first, second = slice(0, n), slice(n, 2 * n)
    angles = positions.astype(np.float64)[:, None] * np.array(rope.inv_freq, np.float64)
    cos, sin = ((f(angles).astype(np.float32) * np.float32(rope.scale)).astype(x.dtype) for f in (np.cos, np.sin))
    a, b = x[:, :, first], x[:, :, second]
    out = x.copy()
    out[:, :, first] = a * cos[:, None] - b * sin[:, None]
    out[:, :, second] = a * sin[:, None] + b * cos[:, None]
    return out


def activate(x: Array, activation: Activation) -> Array:
    one, half = x.dtype.type(1), x.dtype.type(0.5)
    if activation is Activation.SILU:
        return x / (one + np.exp(-x))
    if activation is Activation.GELU:
        erf = np.array([math.erf(value / math.sqrt(2)) for value in x.ravel().tolist()]).reshape(x.shape)
        return half * x * (one + erf.astype(x.dtype))
    # The tanh form of Hendrycks and Gimpel, arXiv:1606.08415.
    inner = x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x * x * x)
    return half * x * (one + np.tanh(inner))


def softcap(x: Array, cap: float) -> Array:
    return x.dtype.type(cap) * np.tanh(x / x.dtype.type(cap))


def visible_keys(row_position: int, key_positions: I32Array, window: int | None) -> npt.NDArray[np.bool_]:
    """Which keys a row attends to: those at or before its position, and within the window."""
    visible = key_positions <= row_position
    if window is not None:
        visible &= row_position - key_positions < window
    return visible


def attend(
    q: Array,
    k: Array,
    v: Array,
    visible: npt.NDArray[np.bool_],
    scale: float,
    cap: float | None,
    sink: float | None,
    bias: Array | None = None,
) -> Array:
    """One head of one row: q (dim,), keys k (n, dim), values v (n, v_dim), visible and bias (n,); returns (v_dim,).

    Partials (max, sum, output) over blocks of `KEY_BLOCK` keys by index, merged in ascending order; the sink, a logit
    without a value, is the last partial. Masked keys are dropped before any arithmetic; no key at all gives zeros."""
    partials: list[Partial] = []
    for start in range(0, len(k), KEY_BLOCK):
        chosen = np.flatnonzero(visible[start : start + KEY_BLOCK]) + start
        if chosen.size:
            added = None if bias is None else bias[chosen]
            partials.append(_partial(q, k[chosen], v[chosen], scale, cap, added))
    if sink is not None:
        partials.append((np.asarray(sink, q.dtype), np.asarray(1, q.dtype), np.zeros(v.shape[1], q.dtype)))
    if not partials:
        return np.zeros(v.shape[1], q.dtype)
    _, total, out = functools.reduce(_merge, partials)
    return np.asarray(out / total)


def _merge(done: Partial, following: Partial) -> Partial:
    top = np.maximum(done[0], following[0])
    old, new = np.exp(done[0] - top), np.exp(following[0] - top)
    return np.asarray(top), done[1] * old + following[1] * new, done[2] * old + following[2] * new


def _partial(q: Array, k: Array, v: Array, scale: float, cap: float | None, bias: Array | None) -> Partial:
    scores: Array = (k @ q) * q.dtype.type(scale)
    if cap is not None:
        scores = softcap(scores, cap)
    if bias is not None:
        scores = scores + bias.astype(q.dtype)
    top = np.max(scores)
    weights = np.exp(scores - top)
    return np.asarray(top), np.asarray(np.sum(weights)), weights @ v


def gated_mlp(
    x: Array,
    weights: tuple[Array, Array, Array],
    biases: tuple[Array | None, Array | None, Array | None],
    activation: Activation,
) -> Array:
    """down @ (act(gate @ x) * (up @ x)); weights and biases are (gate, up, down)."""
    gate, up, down = weights
    hidden = activate(matmul(x, gate, biases[0]), activation) * matmul(x, up, biases[1])
    return matmul(hidden, down, biases[2])


def moe(x: Array, router: Array, experts: tuple[Array, Array, Array], op: Moe) -> Array:
    """Sum over the `top_k` most probable experts in rank order, each weighted by its probability."""
    out = np.zeros_like(x)
    for r in range(len(x)):
        row = x[r : r + 1]
        logits = matmul(row, router)[0]
        p = np.exp(logits - np.max(logits))
        p /= np.sum(p)
        ranked = np.argsort(-p, kind="stable")[: op.top_k]
        chosen = p[ranked] / np.sum(p[ranked]) if op.normalise else p[ranked]
        for expert, share in zip(ranked, chosen, strict=True):
            gate, up, down = (weight[expert] for weight in experts)
            out[r] += share * gated_mlp(row, (gate, up, down), (None, None, None), op.activation)[0]
    return out
