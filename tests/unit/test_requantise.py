"""The plain quantisers that comparisons of formats round with: what they write is what the reference reads."""

import numpy as np
import pytest

from plait.formats.quant import dequantize
from support.scripts import load_script

requantise = load_script("requantise")
ERRORS = {
    "F32": 0, "F16": 3e-4, "BF16": 2e-3, "Q8_0": 0.006, "Q6_K": 0.021, "Q5_K": 0.042, "Q5_1": 0.042, "Q5_0": 0.048,
    "Q4_K": 0.085, "Q4_1": 0.085, "Q4_0": 0.095, "IQ4_NL": 0.09, "IQ4_XS": 0.09, "Q3_K": 0.17, "Q2_K": 0.36,
}  # fmt: skip
"""Root mean square errors on normal values, as parts of their spread, of the formats that the script rounds to."""


@pytest.mark.parametrize("name", ERRORS)
def test_rounding_errs_as_little_as_the_bits_allow(name: str) -> None:
    values = np.random.default_rng(0).normal(0, 0.05, (16, 512)).astype(np.float32)
    values[3] *= 100  # each row has scales of its own
    found = dequantize(requantise.quantise(values, name), name)
    for part in (slice(0, 3), slice(3, 4), slice(4, 16)):
        error = np.sqrt(np.mean((found[part] - values[part]) ** 2)) / values[part].std()
        assert error <= ERRORS[name] * 1.1


@pytest.mark.parametrize("name", ERRORS)
def test_zeros_stay_zeros(name: str) -> None:
    assert not dequantize(requantise.quantise(np.zeros((2, 256), np.float32), name), name).any()


@pytest.mark.parametrize("name", ["Q4_1", "Q5_0", "Q5_1"])
def test_rounding_is_no_worse_than_ggmls(name: str) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    values = np.random.default_rng(1).normal(0, 1, (64, 256)).astype(np.float32)
    theirs = dequantize(quantize(values, GGMLQuantizationType[name]), name)
    ours = dequantize(requantise.quantise(values, name), name)
    assert np.abs(ours - values).mean() < 1.02 * np.abs(theirs - values).mean()
