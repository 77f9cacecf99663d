"""Block formats: how numbers are packed on disk, and what they mean, in numpy.

The reference that every kernel is compared with. `table` lists the formats, `tensors` works on whole arrays. Knows
numpy alone: no file, no container, no model.
"""

from plait.formats.quant.table import BLOCK_FORMATS, KNOWN_TYPES, BlockFormat, TensorType, block_format
from plait.formats.quant.tensors import dequantize, quantize

__all__ = ["BLOCK_FORMATS", "KNOWN_TYPES", "BlockFormat", "TensorType", "block_format", "dequantize", "quantize"]
