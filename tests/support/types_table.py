"""The tables of weight types in docs/reference/models.md: from the table of formats, and from what the CPU library does
with a tiny model in each."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from plait.formats.open import open_model
from plait.formats.quant import BLOCK_FORMATS
from plait.models.registry import load_model
from plait.ops.cpu.plan import plan_weights
from support.packed_checkpoints import KINDS, Packed
from support.tensors import in_blocks, quantised
from support.tiny_llama import TinyLlama

SHAPE = TinyLlama(d_model=256, ff=512, head_dim=32, n_heads=8, n_layers=1)
TYPES = """
## Types of weights

What a tensor may be. *CPU* is the kernel that multiplies with it, as `plait inspect` shows it for every tensor of a
file; on CUDA all are made floats of `--gpu-type` at load. *Written* marks those that `plait quantize` makes itself.

| type | bits a weight | CPU | written |
|---|---|---|---|
"""
CHECKPOINTS = """
AWQ (gemm, 4 bits), GPTQ (2, 4 and 8 bits) and compressed-tensors (pack-quantized and int-quantized, 4 and 8 bits)
directories are read as one of these types: levels exactly, scales as halves. A matrix whose integers none can hold
becomes F16, which takes 2 bytes a weight, and a warning says why: inputs whose groups are out of order (GPTQ's
`desc_act`), groups that end within 32 inputs, or levels less their zeros
of more than 8 bits. `plait inspect` shows the type that each matrix gets. Those of the tests:

| checkpoint | kept as |
|---|---|
"""


def types_tables() -> str:
    """Both tables, as Markdown."""
    return TYPES + "".join(map(_type_row, BLOCK_FORMATS)) + CHECKPOINTS + "".join(map(_checkpoint_row, KINDS))


def _type_row(name: str) -> str:
    kind = BLOCK_FORMATS[name]
    source = SHAPE.source("gguf")
    model = quantised(source, name) if kind.quantize else in_blocks(source, name)
    plan = plan_weights(load_model(model).program)
    kernel = plan.kernels["blk.0.attn_q.weight"]
    bits = f"{8 * kind.block_bytes / kind.block_values:.4g}"
    return f"| {name} | {bits} | {kernel} | {'yes' if kind.quantize else ''} |\n"


def _checkpoint_row(name: str) -> str:
    with TemporaryDirectory() as folder:
        kept = open_model(Packed(KINDS[name]).save(Path(folder))).tensors["model.layers.0.mlp.up_proj.weight"].format
    return f"| {name} | {kept} |\n"
