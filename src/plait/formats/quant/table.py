"""The table of tensor types: ggml's names, numbers and sizes, and which of them Plait can read.

Source of names, numbers and sizes: ggml.h (enum ggml_type) and ggml-common.h. Knows numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from plait.formats.quant import blocks32, blocks256, blocks_iq, plain, quantize256, ternary
from plait.formats.quant.bits import F32Array, U8Array


@dataclass(frozen=True, slots=True)
class TensorType:
    """A type that a tensor in a file may have: `block_bytes` bytes hold `block_values` values of one row."""

    name: str
    ggml_type_id: int
    block_values: int
    block_bytes: int

    def row_bytes(self, row_values: int) -> int:
        """Bytes of a row of `row_values` values, a multiple of `block_values`."""
        return row_values // self.block_values * self.block_bytes


@dataclass(frozen=True, slots=True)
class BlockFormat(TensorType):
    """A type that Plait reads. `dequantize` takes bytes (n, block_bytes), contiguous, and returns float32
    (n, block_values); `quantize`, where there is one, is the reverse."""

    dequantize: Callable[[U8Array], F32Array]
    quantize: Callable[[F32Array], U8Array] | None = None


_FORMATS = (
    BlockFormat("F32", 0, 1, 4, plain.dequantize_f32, plain.quantize_f32),
    BlockFormat("F16", 1, 1, 2, plain.dequantize_f16, plain.quantize_f16),
    BlockFormat("BF16", 30, 1, 2, plain.dequantize_bf16, plain.quantize_bf16),
    BlockFormat("Q4_0", 2, 32, 18, blocks32.dequantize_q4_0, blocks32.quantize_q4_0),
    BlockFormat("Q4_1", 3, 32, 20, blocks32.dequantize_q4_1, blocks32.quantize_q4_1),
    BlockFormat("Q5_0", 6, 32, 22, blocks32.dequantize_q5_0, blocks32.quantize_q5_0),
    BlockFormat("Q5_1", 7, 32, 24, blocks32.dequantize_q5_1, blocks32.quantize_q5_1),
    BlockFormat("Q8_0", 8, 32, 34, blocks32.dequantize_q8_0, blocks32.quantize_q8_0),
    BlockFormat("Q2_K", 10, 256, 84, blocks256.dequantize_q2_k),
    BlockFormat("Q3_K", 11, 256, 110, blocks256.dequantize_q3_k),
    BlockFormat("Q4_K", 12, 256, 144, blocks256.dequantize_q4_k, quantize256.quantize_q4_k),
    BlockFormat("Q5_K", 13, 256, 176, blocks256.dequantize_q5_k, quantize256.quantize_q5_k),
    BlockFormat("Q6_K", 14, 256, 210, blocks256.dequantize_q6_k, quantize256.quantize_q6_k),
    BlockFormat("IQ4_NL", 20, 32, 18, blocks256.dequantize_iq4_nl, quantize256.quantize_iq4_nl),
    BlockFormat("IQ4_XS", 23, 256, 136, blocks256.dequantize_iq4_xs),
    BlockFormat("IQ2_XXS", 16, 256, 66, blocks_iq.dequantize_iq2_xxs),
    BlockFormat("IQ2_XS", 17, 256, 74, blocks_iq.dequantize_iq2_xs),
    BlockFormat("IQ2_S", 22, 256, 82, blocks_iq.dequantize_iq2_s),
    BlockFormat("IQ3_XXS", 18, 256, 98, blocks_iq.dequantize_iq3_xxs),
    BlockFormat("IQ3_S", 21, 256, 110, blocks_iq.dequantize_iq3_s),
    BlockFormat("IQ1_S", 19, 256, 50, blocks_iq.dequantize_iq1_s),
    BlockFormat("IQ1_M", 29, 256, 56, blocks_iq.dequantize_iq1_m),
    BlockFormat("TQ1_0", 34, 256, 54, ternary.dequantize_tq1_0),
    BlockFormat("TQ2_0", 35, 256, 66, ternary.dequantize_tq2_0),
    BlockFormat("MXFP4", 39, 32, 17, ternary.dequantize_mxfp4),
)

# Types of ggml that Plait knows the size of, so that it can list and skip them, but cannot read.
_UNREAD = (
    TensorType("Q8_1", 9, 32, 40),
    TensorType("Q8_K", 15, 256, 292),
    TensorType("I8", 24, 1, 1),
    TensorType("I16", 25, 1, 2),
    TensorType("I32", 26, 1, 4),
    TensorType("I64", 27, 1, 8),
    TensorType("F64", 28, 1, 8),
    TensorType("NVFP4", 40, 64, 36),
    TensorType("Q1_0", 41, 128, 18),
)

BLOCK_FORMATS: Mapping[str, BlockFormat] = MappingProxyType({f.name: f for f in _FORMATS})
"""Every format that Plait reads, by name."""

KNOWN_TYPES: Mapping[int, TensorType] = MappingProxyType({t.ggml_type_id: t for t in (*_FORMATS, *_UNREAD)})
"""Every type whose size Plait knows, by ggml's number."""


def block_format(name: str) -> BlockFormat:
    """The format of that name. Raises `KeyError`: a name that came out of a file has been checked before."""
    return BLOCK_FORMATS[name]
