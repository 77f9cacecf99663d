"""q, k and v, gate and up, each a matrix of its own, out of files that keep them apart or fuse them in one.

Knows names and the orders of rows that containers use; knows no ops.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from plait.models.config import DecoderConfig
from plait.models.names import DecoderNames
from plait.models.views import RowIndex
from plait.models.weights import WeightReader
from plait.ops.api import Weight

Weights: TypeAlias = tuple[Weight, ...]
Biases: TypeAlias = tuple[Weight | None, ...]


def qkv(config: DecoderConfig, names: DecoderNames, weights: WeightReader, layer: int) -> tuple[Weights, Biases]:
    """The matrices of q, k and v and their biases."""
    prefix = names.layer.format(layer)
    widths = {
        "q": config.n_heads * config.head_dim,
        "k": config.n_kv_heads * config.head_dim,
        "v": config.n_kv_heads * config.v_head_dim,
    }
    if names.qkv and weights.has(f"{prefix}{names.qkv}.weight"):
        total = sum(widths.values())
        whole = weights.take(f"{prefix}{names.qkv}.weight", total, config.d_model, transposed=names.transposed)
        bias = weights.take(f"{prefix}{names.qkv}.bias", total) if config.qkv_bias else None
        rows = grouped_rows(config) if names.qkv_grouped else _ranges(widths)
        return (
            tuple(weights.rows(whole, of, label) for label, of in rows.items()),
            tuple(None if bias is None else weights.rows(bias, of, label) for label, of in rows.items()),
        )
    parts = tuple(zip((names.q, names.k, names.v), widths.values(), strict=True))
    return (
        tuple(weights.take(f"{prefix}{name}.weight", width, config.d_model) for name, width in parts),
        tuple(weights.take(f"{prefix}{name}.bias", width) if config.qkv_bias else None for name, width in parts),
    )


def gate_up(
    config: DecoderConfig, names: DecoderNames, weights: WeightReader, layer: int
) -> tuple[tuple[Weight, Weight], tuple[Weight | None, Weight | None]]:
    """The matrices gate and up, and their biases."""
    prefix, ff, d = names.layer.format(layer), config.ff, config.d_model
    fused = names.gate_up and weights.has(f"{prefix}{names.gate_up}.weight")
    if fused and not weights.has(f"{prefix}{names.gate}.weight"):
        whole = weights.take(f"{prefix}{names.gate_up}.weight", 2 * ff, d)
        bias = weights.take(f"{prefix}{names.gate_up}.bias", 2 * ff) if config.mlp_bias else None
        halves = _ranges({"gate": ff, "up": ff})
        gate, up = (weights.rows(whole, of, label) for label, of in halves.items())
        biases = [None if bias is None else weights.rows(bias, of, label) for label, of in halves.items()]
        return (gate, up), (biases[0], biases[1])
    gate, up = (weights.take(f"{prefix}{name}.weight", ff, d) for name in (names.gate, names.up))
    if not config.mlp_bias:
        return (gate, up), (None, None)
    return (gate, up), (weights.take(f"{prefix}{names.gate}.bias", ff), weights.take(f"{prefix}{names.up}.bias", ff))


def _ranges(widths: dict[str, int]) -> dict[str, slice]:
    """One after the other."""
    ends = np.cumsum(list(widths.values())).tolist()
    return {label: slice(end - widths[label], end) for label, end in zip(widths, ends, strict=True)}


def grouped_rows(config: DecoderConfig) -> dict[str, RowIndex]:
    """Group by group: the query heads of a KV head, its k, its v."""
    queries = config.n_heads // config.n_kv_heads
    rows = np.arange(config.n_kv_heads * (queries + 2) * config.head_dim, dtype=np.int64)
    heads = rows.reshape(config.n_kv_heads, queries + 2, config.head_dim)
    parts = {"q": heads[:, :queries], "k": heads[:, queries], "v": heads[:, queries + 1]}
    return {label: part.ravel() for label, part in parts.items()}
