"""Recorded programs of random weights that hold every instruction, for comparing backends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from plait.ops.api import Activation, KVGroup, KVShape, Program, Rope, RopeLayout, Value, Weight
from plait.ops.recorder import Ops
from support.tensors import random_weight

VOCAB = 30
WINDOW = 7
HALF = Rope(RopeLayout.HALF, (1.0, 0.3, 0.05), 1.2)
INTERLEAVED = Rope(RopeLayout.INTERLEAVED, (0.7, 0.2, 0.04, 0.01))


def everything(
    d: int = 24, heads: int = 4, kv_heads: int = 2, dim: int = 8, v_dim: int = 6, ff: int = 20, window: int = WINDOW
) -> Program:
    """Three layers in two KV groups (layer 1 has the window), with every instruction and most of their options."""
    rng = np.random.default_rng(5)

    def w(*shape: int) -> Weight:
        return random_weight(rng, "w", *shape, scale=0.3)

    ops = Ops(KVShape(kv_heads, dim, v_dim, (KVGroup((0, 2)), KVGroup((1,), window))), heads)
    slopes = tuple(0.3 / (head + 1) for head in range(heads))
    x = ops.add(ops.scale(ops.embed(w(VOCAB, d)), 1.7), ops.embed_positions(w(5, d)))
    for layer, (rope, cap) in enumerate(((HALF, None), (INTERLEAVED, 4.0), (None, None))):
        normed = ops.rms_norm(x, w(d), 1e-5, offset=1.0)
        widths = (heads * dim, kv_heads * dim, kv_heads * v_dim)
        q, k, v = ops.linears(normed, tuple(w(n, d) for n in widths), (w(widths[0]), None, w(widths[2])))
        q = ops.rms_norm(q, w(dim), 1e-6, groups=heads, offset=1.0)
        if layer == 2:
            q = ops.layer_norm(q, w(heads, dim), None, 1e-5, groups=heads)
            k = ops.clamp(ops.layer_norm(k, w(dim), w(dim), 1e-5, groups=kv_heads), 0.5)
        q = ops.rope_and_store(q, k, v, layer=layer, rope=rope)
        mixed = ops.attention(q, layer=layer, scale=0.4, softcap=cap, sinks=w(heads) if layer == 1 else None,
                              slopes=slopes if layer == 2 else None)  # fmt: skip
        normed, x = ops.add_rms_norm(ops.linear(mixed, w(d, heads * v_dim)), x, w(d), 1e-5, offset=1.0)
        x = ops.add(x, _feed_forward(ops, normed, w, layer, ff))
    x = ops.add(x, ops.linear(ops.activate(ops.linear(x, w(ff, d)), Activation.GELU_TANH), w(d, ff)))
    x = ops.take_rows(ops.layer_norm(x, w(d), w(d), 1e-5))
    return ops.finish(ops.softcap(ops.linear(x, w(VOCAB, d)), 5.0))


def _feed_forward(ops: Ops, x: Value, w: Callable[..., Weight], layer: int, ff: int) -> Value:
    d, activation = x.width, list(Activation)[layer]
    if layer == 2:
        experts = w(5, ff, d), w(5, ff, d), w(5, d, ff)
        return ops.moe(x, w(5, d), *experts, top_k=2, normalise=True, activation=activation)
    return ops.gated_mlp(x, w(ff, d), w(ff, d), w(d, ff), activation, (w(ff), None, w(d)))


def rows_program(build: Callable[[Ops, Value], Value], table: Weight) -> Program:
    """What `build` makes of embedded rows, each by itself."""
    ops = Ops(KVShape(1, 2, 2, (KVGroup((0,)),)), 1)
    return ops.finish(ops.take_rows(build(ops, ops.embed(table))))
