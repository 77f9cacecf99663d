"""Edits, saving and restoring of the torch backend's KV memory, against the reference's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from plait.ops.api import Backend, KVConfig, Reposition, SlotCopy
from plait.ops.cuda import open_cuda
from plait.ops.reference import ReferenceBackend
from support.kv import CONFIG, attention_layers, check_a_row_stored_twice, run_edited
from support.steps import Chunk, Driver, i32

pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("one_torch_thread")]

PROMPT = [3, 1, 4, 1, 5, 9]


PROGRAM = attention_layers()


def torch_backend() -> Backend:
    return open_cuda("cpu", "f32")


def drivers(config: KVConfig = CONFIG) -> tuple[Driver, Driver]:
    backends: tuple[Backend, Backend] = (torch_backend(), ReferenceBackend())
    ours, theirs = (Driver(backend.compile(PROGRAM, config), config) for backend in backends)
    return ours, theirs


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
    check_a_row_stored_twice(drivers()[0])


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
    assert ours.executable.kv_bytes() == theirs.executable.kv_bytes()
