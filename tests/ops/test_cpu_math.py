"""The CPU kernels' own exp, tanh and activations: within a few units in the last place, the same bits on every path."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from plait.formats.tensor import F32Array
from plait.ops.cpu import CpuBackend, _native

PATHS = CpuBackend.paths()
GRID = np.concatenate([np.linspace(-110, 110, 200_003), np.linspace(-1, 1, 50_001), [0.0, -0.0]]).astype(np.float32)


def exp(path: str, x: F32Array) -> F32Array:
    out = np.empty_like(x)
    _native.exponential(path, x, out)
    return out


def tanh(path: str, x: F32Array) -> F32Array:
    out = np.empty_like(x)
    _native.softcap(path, x, 1.0, out)
    return out


def activation(kind: _native.Activation) -> Callable[[str, F32Array], F32Array]:
    def run(path: str, x: F32Array) -> F32Array:
        out = np.empty_like(x)
        _native.activate(path, kind, x, out)
        return out

    return run


def exact_gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(np.minimum(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3), 700)))


def exact_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * np.array([math.erfc(-v / math.sqrt(2)) for v in x.tolist()])


CASES: dict[str, tuple[Callable[[str, F32Array], F32Array], Callable[[np.ndarray], np.ndarray], float]] = {
    "exp": (exp, lambda x: np.exp(np.minimum(x, 700)), 2),
    "tanh": (tanh, np.tanh, 2),
    "silu": (activation(_native.Activation.SILU), lambda x: x / (1 + np.exp(np.minimum(-x, 700))), 3),
    "gelu": (activation(_native.Activation.GELU), exact_gelu, 12),
    "gelu_tanh": (activation(_native.Activation.GELU_TANH), exact_gelu_tanh, 150),  # u's rounding shows in its exp
}


@pytest.mark.parametrize("name", CASES)
def test_accuracy_in_units_of_the_last_place(name: str) -> None:
    ours, exact, units = CASES[name]
    with np.errstate(over="ignore"):
        got, want = ours(PATHS[0], GRID).astype(np.float64), exact(GRID.astype(np.float64))
        nearest = want.astype(np.float32)
    finite = np.isfinite(nearest)
    np.testing.assert_array_equal(got[~finite], nearest[~finite])
    # Of what is smaller than this nothing is left beside other terms; exp(-x) is infinite there.
    spacing = np.spacing(np.maximum(np.abs(nearest[finite]), np.float32(1e-28))).astype(np.float64)
    assert np.max(np.abs(got[finite] - want[finite]) / spacing) <= units


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CASES)
def test_every_path_gives_the_same_bits(path: str, name: str) -> None:
    """Also at lengths that leave a remainder of any vector."""
    ours = CASES[name][0]
    want = ours("scalar", GRID)
    np.testing.assert_array_equal(ours(path, GRID).view(np.uint32), want.view(np.uint32))
    for n in range(1, 40):
        np.testing.assert_array_equal(ours(path, GRID[:n].copy()).view(np.uint32), want[:n].view(np.uint32))


@pytest.mark.parametrize("path", PATHS)
def test_special_values(path: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30], np.float32)
    np.testing.assert_array_equal(exp(path, x), [np.nan, np.inf, 0, np.inf, 0])
    np.testing.assert_array_equal(tanh(path, x), [np.nan, 1, -1, 1, -1])
