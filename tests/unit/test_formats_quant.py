"""Block formats against the `gguf` package, bit for bit, and our two quantisers."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize as oracle_dequantize
from gguf.quants import quantize as oracle_quantize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from plait.errors import UnsupportedModelError
from plait.formats.quant import BLOCK_FORMATS, KNOWN_TYPES, block_format, dequantize, quantize
from plait.formats.stored import StoredTensor

FORMATS = sorted(BLOCK_FORMATS)
# Where the half-precision scales lie in a block; everything else may be any byte.
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
    "IQ1_S": (0,), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,), "TQ1_0": (52,),
    "TQ2_0": (64,), "IQ1_M": (), "MXFP4": (),
}  # fmt: skip
BLOCKED = sorted(HALVES)


def oracle(rows: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return oracle_dequantize(rows, GGMLQuantizationType[name])


def random_blocks(name: str, n: int, seed: int) -> np.ndarray:
    """Random bytes, with scales that are random but finite halves."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (n, BLOCK_FORMATS[name].block_bytes), dtype=np.uint8)
    for at in HALVES.get(name, ()):
        blocks[:, at : at + 2] = rng.normal(0, 0.1, (n, 1)).astype("<f2").view(np.uint8)
    return blocks


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bits; any NaN equals any NaN."""
    nan = np.isnan(a) & np.isnan(b)
    return a.shape == b.shape and bool(((a.view(np.uint32) == b.view(np.uint32)) | nan).all())


def test_table_agrees_with_gguf() -> None:
    assert {t.name: t.ggml_type_id for t in KNOWN_TYPES.values()} == {t.name: int(t) for t in GGMLQuantizationType}
    for type_id, (values, size) in gguf.GGML_QUANT_SIZES.items():
        assert (KNOWN_TYPES[type_id].block_values, KNOWN_TYPES[type_id].block_bytes) == (values, size)
    assert all(KNOWN_TYPES[f.ggml_type_id] is f and f.name == name for name, f in BLOCK_FORMATS.items())


@pytest.mark.parametrize("name", FORMATS)
def test_random_blocks_bit_equal(name: str) -> None:
    fmt = block_format(name)
    blocks = random_blocks(name, 3 * 128, seed=1)
    got = dequantize(blocks.reshape(3, -1), name)
    assert got.shape == (3, 128 * fmt.block_values)
    assert same_bits(got, oracle(blocks.reshape(3, -1), name))


@pytest.mark.parametrize("name", BLOCKED)
@pytest.mark.parametrize("scale", [0x0000, 0x8000, 0x0001, 0x03FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00])
def test_edge_scales_bit_equal(name: str, scale: int) -> None:
    """Zero, minus zero, subnormals, the largest, infinities and NaN."""
    blocks = random_blocks(name, 64, seed=2)
    for at in HALVES[name]:
        blocks[:, at : at + 2] = np.frombuffer(scale.to_bytes(2, "little"), np.uint8)
    assert same_bits(dequantize(blocks, name), oracle(blocks, name))


@pytest.mark.parametrize("name", BLOCKED)
@pytest.mark.parametrize("fill", [0x00, 0xFF, 0x0F, 0xF0, 0x55, 0xAA, 0x80, 0x7F])
def test_edge_bytes_bit_equal(name: str, fill: int) -> None:
    blocks = np.full((4, BLOCK_FORMATS[name].block_bytes), fill, np.uint8)
    for at in HALVES[name]:
        blocks[:, at : at + 2] = np.array([0.5], "<f2").view(np.uint8)
    assert same_bits(dequantize(blocks, name), oracle(blocks, name))


@pytest.mark.parametrize("name", BLOCKED)
def test_every_byte_of_a_block_matters(name: str) -> None:
    """A byte that the reader ignores would be a layout error that equal garbage cannot show."""
    block = random_blocks(name, 1, seed=3)
    before = dequantize(block, name)
    for at in range(block.shape[1]):
        changed = block.copy()
        changed[0, at] ^= 0x24
        assert not same_bits(dequantize(changed, name), before), f"byte {at} of {name} is ignored"


def test_all_halves_and_bfloats_bit_equal() -> None:
    every = np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(1, -1)
    assert same_bits(dequantize(every, "F16"), oracle(every, "F16"))
    assert same_bits(dequantize(every, "BF16"), oracle(every, "BF16"))


def test_many_pieces_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = random_blocks("Q4_K", 50, seed=4)
    whole = dequantize(blocks, "Q4_K")
    monkeypatch.setattr("plait.formats.quant.tensors._PIECE_VALUES", 256 * 7)
    assert same_bits(dequantize(blocks, "Q4_K"), whole)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("spread", [1e-7, 1.0, 1e3])
def test_quantize_bit_equal(name: str, spread: float) -> None:
    values = np.random.default_rng(5).normal(0, spread, (16, 256)).astype(np.float32)
    values[0] = 0
    values[1, ::2] = -0.0
    values[2] = spread  # all alike: ties for the largest
    values[3, ::2] *= -1
    want = np.ascontiguousarray(oracle_quantize(values, GGMLQuantizationType[name])).view(np.uint8)
    assert np.array_equal(quantize(values, name), want)


@given(arrays(np.float32, (2, 32), elements=st.floats(-(2.0**15), 2.0**15, width=32)))
def test_quantize_error_is_bounded(values: np.ndarray) -> None:
    """Half a step of q (plus the rounding of the scale to a half), for any finite values."""
    largest = np.abs(values).max(axis=1, keepdims=True)
    tiny = np.float32(2.0**-20)  # scales below the smallest half vanish
    for name, steps in (("Q8_0", 127), ("Q4_0", 8)):
        error = np.abs(dequantize(quantize(values, name), name) - values)
        # Q4_0 reaches 8 steps on one side but only 7 on the other, so its last step may be clipped.
        allowed = largest / steps * (0.5 if name == "Q8_0" else 1.0) + largest * 2.0**-10 + tiny * steps
        assert (error <= allowed).all()


def test_quantize_refuses() -> None:
    with pytest.raises(ValueError, match="does not quantise to Q2_K"):
        quantize(np.zeros((1, 256), np.float32), "Q2_K")
    with pytest.raises(ValueError, match="multiple of Q8_0's block of 32"):
        quantize(np.zeros((1, 33), np.float32), "Q8_0")
    with pytest.raises(ValueError, match="not finite"):
        quantize(np.full((1, 32), np.nan, np.float32), "Q8_0")


def test_bf16_keeps_nan_and_rounds_to_even() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x7F800001, 0x7F7FFFFF], np.uint32)
    got = quantize(bits.view(np.float32)[None], "BF16").view("<u2")[0]
    assert got[0] == 0x3F80
    assert got[1] == 0x3F82
    assert np.isnan(dequantize(quantize(bits.view(np.float32)[None], "BF16"), "BF16")[0, 2])
    assert got[3] == 0x7F80


@pytest.mark.parametrize(("name", "nearest"), [("NVFP4", "MXFP4"), ("Q8_1", "Q8_0"), ("F64", "F32")])
def test_what_is_not_read_names_its_nearest(name: str, nearest: str) -> None:
    tensor = StoredTensor("odd", (1, 64), name, np.zeros(64, np.uint8), Path("m.gguf"))
    with pytest.raises(
        UnsupportedModelError, match=f"'odd': is of type {name}, which .* nearest that it reads: {nearest}"
    ):
        tensor.raw()
