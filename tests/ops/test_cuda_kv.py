"""Edits, saving and restoring of the torch backend's KV memory, against the reference's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from plait.ops.api import Backend, KVConfig, KVGroup, KVShape, Program, Reposition, Rope, RopeLayout, SlotCopy
from plait.ops.cuda import open_cuda
from plait.ops.recorder import Ops
from plait.ops.reference import ReferenceBackend
from support.steps import Chunk, Driver, i32
from support.tensors import random_weight

pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("one_torch_thread")]

VOCAB, HEADS, KV_HEADS, DIM = 20, 4, 2, 8
CONFIG = KVConfig(4, (10, 12), "f32")
PROMPT = [3, 1, 4, 1, 5, 9]


def program() -> Program:
    """Three layers in two groups, each with a rotation of its own, or none."""
    rng = np.random.default_rng(1)
    ropes = (Rope(RopeLayout.HALF, (1.0, 0.2, 0.05, 0.01), 1.3), Rope(RopeLayout.INTERLEAVED, (0.5, 0.1)), None)
    ops = Ops(KVShape(KV_HEADS, DIM, DIM, (KVGroup((0, 2)), KVGroup((1,), 6))), HEADS)
    x = ops.embed(random_weight(rng, "table", VOCAB, HEADS * DIM))
    for layer, rope in enumerate(ropes):
        sizes = (HEADS * DIM, KV_HEADS * DIM, KV_HEADS * DIM)
        weights = tuple(random_weight(rng, f"{layer}.{i}", n, HEADS * DIM, scale=0.2) for i, n in enumerate(sizes))
        q, k, v = ops.linears(x, weights)
        q = ops.rope_and_store(q, k, v, layer=layer, rope=rope)
        x = ops.add(x, ops.attention(q, layer=layer, scale=0.35))
    return ops.finish(ops.take_rows(x))


PROGRAM = program()


def torch_backend() -> Backend:
    return open_cuda("cpu", "f32")


def drivers(config: KVConfig = CONFIG) -> tuple[Driver, Driver]:
    backends: tuple[Backend, Backend] = (torch_backend(), ReferenceBackend())
    ours, theirs = (Driver(backend.compile(PROGRAM, config), config) for backend in backends)
    return ours, theirs


def run_edited(driver: Driver, *edits: dict[str, object], shift: int = 0) -> np.ndarray:
    step = driver.pack({"s": Chunk.every([2])})
    kv = tuple(replace(group, **edit) for group, edit in zip(step.kv, edits, strict=True))
    return driver.executable.run(replace(step, positions=step.positions + np.int32(shift), kv=kv))


@pytest.mark.parametrize("shift", [5, -3])
def test_repositions(shift: int) -> None:
    results = []
    for driver in drivers():
        driver.step({"s": Chunk(PROMPT)})
        edits = [
            {"repositions": [Reposition(int(slot), i + 10 + shift) for i, slot in enumerate(driver.slots("s", g))]}
            for g in (0, 1)
        ]
        results.append(run_edited(driver, *edits, shift=10 + shift))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_a_slot_moved_twice_ends_at_its_last_position() -> None:
    results = []
    for driver in drivers():
        driver.step({"s": Chunk(PROMPT)})
        slot = int(driver.slots("s", 0)[2])
        results.append(run_edited(driver, {"repositions": [Reposition(slot, 9), Reposition(slot, 1)]}, {}))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_copies_in_their_order_then_repositions() -> None:
    results = []
    for driver in drivers():
        driver.step({"s": Chunk(PROMPT), "t": Chunk([7, 8, 9])})
        edits: list[dict[str, object]] = []
        for g in (0, 1):
            s, t = driver.slots("s", g), driver.slots("t", g)
            copies = [SlotCopy(int(t[0]), int(s[0]), 2), SlotCopy(int(s[0]), int(s[3]), 1)]
            edits.append({"copies": copies, "repositions": [Reposition(int(s[3]), 3)]})
        results.append(run_edited(driver, *edits))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_a_row_may_be_stored_for_several_sequences() -> None:
    driver, _ = drivers()
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


@pytest.mark.parametrize("kv_type", ["f32", "f16", "bf16"])
def test_saved_slots_go_on_elsewhere_with_the_same_bits(kv_type: str) -> None:
    """In another memory, at other slots; and in the reference's memory, since the bytes mean the same."""
    config = replace(CONFIG, kv_type=kv_type)
    first, reference = drivers(config)
    second, _ = drivers(config)
    first.step({"s": Chunk(PROMPT)})
    second.pack({"other": Chunk([0] * 5)})
    for other in (second, reference):
        other.pack({"s": Chunk(PROMPT)})  # reserves the slots, without computing anything
        for g in (0, 1):
            saved = first.executable.read_slots(g, first.slots("s", g))
            other.executable.write_slots(g, other.slots("s", g), saved)
            assert other.executable.read_slots(g, other.slots("s", g)) == saved
    want = first.step({"s": Chunk.every([2])})["s"]
    np.testing.assert_array_equal(second.step({"s": Chunk.every([2])})["s"], want)
    np.testing.assert_allclose(reference.step({"s": Chunk.every([2])})["s"], want, rtol=0.02, atol=0.02)


def test_saved_bytes_of_another_size_are_refused() -> None:
    driver, _ = drivers()
    saved = driver.executable.read_slots(0, i32([4, 5]))
    with pytest.raises(ValueError, match="expected"):
        driver.executable.write_slots(0, i32([4]), saved)
    with pytest.raises(ValueError, match="outside the pages"):
        driver.executable.read_slots(0, i32([3]))
    with pytest.raises(ValueError, match="no KV group 2"):
        driver.executable.read_slots(2, i32([4]))
    driver.executable.write_slots(0, i32([]), b"")


def test_kv_bytes_are_those_of_the_reference() -> None:
    ours, theirs = drivers()
    positions = sum(CONFIG.num_pages) * CONFIG.page_size
    assert ours.executable.kv_bytes() == theirs.executable.kv_bytes() + 4 * positions  # positions are 64-bit here
