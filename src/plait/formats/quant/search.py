"""Looking for the scales of a run of values: weighted least squares over a grid of first guesses, in numpy.

The searches are those that ggml's reference quantisers define (ggml-quants.c); each run is a row of a matrix, all rows
are searched at once. Knows numpy alone: no block layout.
"""

from __future__ import annotations

import numpy as np

from plait.formats.quant.bits import F32Array


def reciprocal(values: F32Array) -> F32Array:
    """1/x, and 0 where that is not finite."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / values
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _dot(a: F32Array, b: F32Array) -> F32Array:
    product: F32Array = np.einsum("nk,nk->n", a, b)
    return product


def scale_and_minimum(x: F32Array, top: int, first: float, steps: int) -> tuple[F32Array, F32Array]:
    """Scale s >= 0 and minimum m >= 0 of each row of `x` (n, k), so that x is near s*q - m with q from 0 to `top`.

    Tries q = round((x + m) * (top + first + i/10) / (max + m)) for i from 0 to `steps`, with the best m so far, and
    solves for s and m with weights rms(x) + |x|. Returns two arrays (n,).
    """
    low, high = np.minimum(x.min(axis=1), np.float32(0)), x.max(axis=1)
    span = high - low
    weight = np.sqrt(np.einsum("nk,nk->n", x, x) / np.float32(x.shape[1]))[:, None] + np.abs(x)
    scale, minimum = span / np.float32(top), -low
    error = _error(x, weight, scale, minimum, _levels(x, minimum, np.float32(top) * reciprocal(span), top))
    for i in range(steps + 1):
        q = _levels(x, minimum, np.float32(top + first + i / 10) * reciprocal(high + minimum), top)
        new_scale, new_minimum, solved = _solve(x, weight, q)
        new_error = np.where(solved, _error(x, weight, new_scale, new_minimum, q), np.float32(np.inf))
        better = new_error < error
        scale, minimum, error = (
            np.where(better, new, old) for new, old in ((new_scale, scale), (new_minimum, minimum), (new_error, error))
        )
    return scale, minimum


def _levels(x: F32Array, minimum: F32Array, inverse: F32Array, top: int) -> F32Array:
    q: F32Array = x + minimum[:, None]
    q *= inverse[:, None]
    np.rint(q, out=q)
    return np.clip(q, 0, top, out=q)


def _solve(x: F32Array, weight: F32Array, q: F32Array) -> tuple[F32Array, F32Array, np.ndarray]:
    """The weighted least squares of x = s*q - m, m >= 0; and where there is a solution."""
    wq, wx = weight * q, weight * x
    w, l, l2, xs, xl = weight.sum(axis=1), wq.sum(axis=1), _dot(wq, q), wx.sum(axis=1), _dot(wx, q)  # noqa: E741
    det = w * l2 - l * l
    per_det = reciprocal(det)
    scale, offset = (w * xl - xs * l) * per_det, (l2 * xs - l * xl) * per_det
    positive = offset > 0
    scale = np.where(positive, xl * reciprocal(l2), scale)
    return scale, np.where(positive, np.float32(0), -offset), (det > 0) & (scale > 0)


def _error(x: F32Array, weight: F32Array, scale: F32Array, minimum: F32Array, q: F32Array) -> F32Array:
    rest = scale[:, None] * q
    rest -= minimum[:, None]
    rest -= x
    np.multiply(rest, rest, out=rest)
    return _dot(rest, weight)


def signed_scale(x: F32Array, top: int) -> F32Array:
    """Scale s of each row of `x` (n, k), so that x is near s*q with q from -top to top - 1; 0 for a row of zeros.

    Tries q = round(-x * (top + i/10) / m) for i from -9 to 9 and the m of the largest magnitude, solves for s with
    weights x^2, and keeps the s that explains most: the largest (sum w x q)^2 / (sum w q^2). Returns (n,).
    """
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    weight, per_largest = x * x, reciprocal(largest)
    scale, best = np.zeros(len(x), np.float32), np.zeros(len(x), np.float32)
    for i in (0, *range(-9, 0), *range(1, 10)):
        q = np.rint(x * (np.float32(-(top + i / 10)) * per_largest)).clip(-top, top - 1)
        scale, best = _keep_better(x, weight, q, scale, best)
    return scale


def level_scale(x: F32Array, levels: F32Array, tries: int) -> F32Array:
    """Scale s of each row of `x` (n, k), so that x is near s * one of `levels` (ascending), as `signed_scale`.

    Tries the scales m / (levels[0] + i) for i from -tries to tries. Returns (n,).
    """
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    weight, per_largest = x * x, reciprocal(largest)
    scale, best = np.zeros(len(x), np.float32), np.zeros(len(x), np.float32)
    for i in (0, *range(-tries, 0), *range(1, tries + 1)):
        inverse = (levels[0] + np.float32(i)) * per_largest
        for sign in (1, -1) if i == 0 else (1,):
            q = levels[nearest_level(x * (inverse * np.float32(sign)), levels)]
            scale, best = _keep_better(x, weight, q, scale, best)
    return scale


def nearest_level(x: F32Array, levels: F32Array) -> np.ndarray:
    """The index of the level nearest to each of `x`; `levels` ascend."""
    index: np.ndarray = np.searchsorted((levels[1:] + levels[:-1]) / np.float32(2), x, side="right")
    return index


def _keep_better(
    x: F32Array, weight: F32Array, q: F32Array, scale: F32Array, best: F32Array
) -> tuple[F32Array, F32Array]:
    wq = weight * q
    xl, per_l2 = _dot(wq, x), reciprocal(_dot(wq, q))
    explained = xl * xl * per_l2
    better = explained > best
    return np.where(better, xl * per_l2, scale), np.where(better, explained, best)
