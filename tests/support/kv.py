"""What the tests of every backend's KV memory share: a small program in two groups, steps with edits, a shared row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from plait.ops.api import KVConfig, KVGroup, KVShape, Program, Rope, RopeLayout
from plait.ops.recorder import Ops
from support.steps import Chunk, Driver, i32
from support.tensors import random_weight

VOCAB, HEADS, KV_HEADS, DIM = 20, 4, 2, 8
CONFIG = KVConfig(4, (10, 12), "f32")
ROPES = (Rope(RopeLayout.HALF, (1.0, 0.2, 0.05, 0.01), 1.3), Rope(RopeLayout.INTERLEAVED, (0.5, 0.1)), None)


def attention_layers(ropes: tuple[Rope | None, ...] = ROPES) -> Program:
    """An attention layer with a residual for each rope. Layer 1 is a KV group of its own, with a window of 6."""
    rng = np.random.default_rng(1)
    full = tuple(layer for layer in range(len(ropes)) if layer != 1)
    ops = Ops(KVShape(KV_HEADS, DIM, DIM, (KVGroup(full), KVGroup((1,), 6))), HEADS)
    x = ops.embed(random_weight(rng, "table", VOCAB, HEADS * DIM))
    for layer, rope in enumerate(ropes):
        sizes = (HEADS * DIM, KV_HEADS * DIM, KV_HEADS * DIM)
        weights = tuple(random_weight(rng, f"{layer}.{i}", n, HEADS * DIM, scale=0.2) for i, n in enumerate(sizes))
        q, k, v = ops.linears(x, weights)
        x = ops.add(x, ops.attention(ops.rope_and_store(q, k, v, layer=layer, rope=rope), layer=layer, scale=0.35))
    return ops.finish(ops.take_rows(x))


def run_edited(driver: Driver, *edits: dict[str, object], shift: int = 0) -> np.ndarray:
    """One more token of sequence "s", with edits of each group before it, at a position `shift` further."""
    step = driver.pack({"s": Chunk.every([2])})
    kv = tuple(replace(group, **edit) for group, edit in zip(step.kv, edits, strict=True))
    return driver.executable.run(replace(step, positions=step.positions + np.int32(shift), kv=kv))


def check_a_row_stored_twice(driver: Driver) -> None:
    """llama.cpp's batches: a token with two sequence ids attends to the first one's keys and is stored for both."""
    driver.step({"s": Chunk([3, 1])})
    shared = driver.pack({"s": Chunk.every([4])})
    driver.pack({"t": Chunk([0])})
    kv = tuple(
        replace(group, store_row=i32([0, 0]), store_slot=i32([*group.store_slot, driver.slot("t", 0, g)]))
        for g, group in enumerate(shared.kv)
    )
    driver.executable.run(replace(shared, kv=kv))
    saved = [driver.executable.read_slots(g, i32([driver.slot("s", 2, g)])) for g in (0, 1)]
    assert saved == [driver.executable.read_slots(g, i32([driver.slot("t", 0, g)])) for g in (0, 1)]
