"""Edits, saving and restoring of the CPU backend's KV memory, against the reference's; refused steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from test_reference_kv import BAD_STEPS

from plait.ops.api import (
    Backend,
    KVConfig,
    Reposition,
    SlotCopy,
    StepInputs,
)
from plait.ops.cpu import CpuBackend
from plait.ops.reference import ReferenceBackend
from support.kv import CONFIG, DIM, HEADS, attention_layers, check_a_row_stored_twice, run_edited
from support.steps import Chunk, Driver, i32

PROMPT = [3, 1, 4, 1, 5, 9]


PROGRAM = attention_layers()


def drivers(config: KVConfig = CONFIG) -> tuple[Driver, Driver]:
    backends: tuple[Backend, Backend] = (CpuBackend(2), ReferenceBackend())
    ours, theirs = (Driver(backend.compile(PROGRAM, config), config) for backend in backends)
    return ours, theirs


def saved(driver: Driver, name: str) -> list[bytes]:
    return [driver.executable.read_slots(g, driver.slots(name, g)) for g in (0, 1)]


@pytest.mark.parametrize("shift", [5, -3])
@pytest.mark.parametrize("kv_type", ["f32", "f16"])
def test_repositions_turn_keys_as_the_reference_does(shift: int, kv_type: str) -> None:
    """All keys by one shift, but the first by another one on top: runs of shifts, and two shifts of one slot."""
    results = []
    for driver in drivers(replace(CONFIG, kv_type=kv_type)):
        driver.step({"s": Chunk(PROMPT)})
        edits = []
        for g in (0, 1):
            slots = driver.slots("s", g)
            moves = [Reposition(int(slot), i + shift) for i, slot in enumerate(slots)]
            edits.append({"repositions": [Reposition(int(slots[0]), 40), *moves]})
        results.append(run_edited(driver, *edits, shift=shift))
    tolerance = 1e-5 if kv_type == "f32" else 2e-3
    np.testing.assert_allclose(*results, rtol=tolerance, atol=tolerance)


def test_copies_come_before_repositions_and_writes() -> None:
    """A second sequence continues from copies of the first one's slots, bit for bit; the source stays as it was."""
    plain, _ = drivers()
    plain.step({"s": Chunk(PROMPT)})
    want = plain.step({"s": Chunk.every([9])})["s"]
    driver, _ = drivers()
    driver.step({"s": Chunk(PROMPT)})
    source = [driver.slots("s", g) for g in (0, 1)]
    driver.pack({"t": Chunk(PROMPT)})  # reserves slots for t without running the step
    step = driver.pack({"t": Chunk.every([9])})
    kv = []
    for g, inputs in enumerate(step.kv):
        pairs = zip(source[g].tolist(), driver.slots("t", g).tolist(), strict=False)
        # By way of a third place: copies are done in order.
        copies = [SlotCopy(a, 36 + i % 2, 1) for i, (a, _) in enumerate(pairs)][:1]
        copies += [SlotCopy(36, int(driver.slots("t", g)[0]), 1)]
        pairs = list(zip(source[g].tolist(), driver.slots("t", g).tolist(), strict=False))[1:]
        kv.append(replace(inputs, copies=copies + [SlotCopy(a, b, 1) for a, b in pairs]))
    np.testing.assert_array_equal(driver.executable.run(replace(step, kv=tuple(kv))), want)
    np.testing.assert_array_equal(driver.step({"s": Chunk.every([9])})["s"], want)


def test_a_copy_of_several_slots_may_cross_pages() -> None:
    driver, _ = drivers()
    driver.step({"s": Chunk([*PROMPT, *PROMPT])})
    before = [driver.executable.read_slots(g, i32(range(6, 12))) for g in (0, 1)]
    run_edited(driver, *[{"copies": [SlotCopy(6, 30, 6)]}] * 2)
    assert before == [driver.executable.read_slots(g, i32(range(30, 36))) for g in (0, 1)]


@pytest.mark.parametrize("kv_type", ["f32", "f16", "bf16"])
def test_saved_slots_go_on_elsewhere_with_the_same_bits(kv_type: str) -> None:
    config = replace(CONFIG, kv_type=kv_type)
    first, _ = drivers(config)
    first.step({"s": Chunk(PROMPT)})
    kept = saved(first, "s")
    want = first.step({"s": Chunk.every([6, 5])})["s"]
    second, _ = drivers(config)
    second.step({"other": Chunk([8] * 9)})
    second.pack({"s": Chunk([0] * len(PROMPT))})
    for g in (0, 1):
        second.executable.write_slots(g, second.slots("s", g), kept[g])
    np.testing.assert_array_equal(second.step({"s": Chunk.every([6, 5])})["s"], want)


def test_the_reference_reads_what_the_cpu_saved() -> None:
    ours, theirs = drivers()
    ours.step({"s": Chunk(PROMPT)})
    want = ours.step({"s": Chunk.every([6])})["s"]
    theirs.pack({"s": Chunk([0] * (len(PROMPT) + 1))})
    for g, data in enumerate(saved(ours, "s")):
        theirs.executable.write_slots(g, theirs.slots("s", g), data)
    step = theirs.pack({"s": Chunk.every([6])})
    # Position 6 again, over the slot that holds it already.
    kv = tuple(replace(k, entries=i32([*theirs.table("s", g)[:1], (2, 0, 3)])) for g, k in enumerate(step.kv))
    kv = tuple(replace(k, entry_start=i32([0, 2]), store_slot=i32([theirs.slot("s", 6, g)])) for g, k in enumerate(kv))
    got = theirs.executable.run(replace(step, positions=i32([6]), kv=kv))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_row_may_be_stored_for_several_sequences() -> None:
    check_a_row_stored_twice(drivers()[0])


def test_kv_bytes_counts_keys_values_and_positions() -> None:
    for config in (CONFIG, replace(CONFIG, kv_type="f16")):
        ours, theirs = drivers(config)
        assert ours.executable.kv_bytes() == theirs.executable.kv_bytes()


@pytest.mark.parametrize(("spoil", "message"), BAD_STEPS.values(), ids=BAD_STEPS.keys())
def test_a_step_out_of_range_is_refused(spoil: Callable[[StepInputs], StepInputs], message: str) -> None:
    """With the reference's words; the program goes on afterwards, as if nothing had been."""
    driver, _ = drivers()
    good = driver.pack({"s": Chunk.every([1, 2])})
    want = driver.executable.run(good).copy()
    with pytest.raises(ValueError, match=message):
        driver.executable.run(spoil(good))
    np.testing.assert_array_equal(driver.executable.run(good), want)


def test_more_entries_than_overflow_could_hide_are_refused() -> None:
    driver, _ = drivers()
    good = driver.pack({"s": Chunk.every([1, 2])})
    huge = 2**31 - 1
    for entry in ([1, huge, 1], [1, 1, huge], [huge, 0, 2], [1, -1, 2], [-1, 0, 1]):
        kv = (replace(good.kv[0], entries=i32([entry])), good.kv[1])
        with pytest.raises(ValueError, match="page"):
            driver.executable.run(replace(good, kv=kv))
    for copy in (SlotCopy(4, huge, 1), SlotCopy(4, 8, huge), SlotCopy(-huge, 8, 1)):
        kv = (replace(good.kv[0], copies=[copy]), good.kv[1])
        with pytest.raises(ValueError, match=r"slot|overlap"):
            driver.executable.run(replace(good, kv=kv))


def test_slots_out_of_range_are_refused() -> None:
    executable = drivers()[0].executable
    with pytest.raises(ValueError, match="slot 40"):
        executable.read_slots(0, i32([40]))
    with pytest.raises(ValueError, match="no KV group 2"):
        executable.read_slots(2, i32([4]))
    with pytest.raises(ValueError, match="expected"):
        executable.write_slots(0, i32([4]), b"123")


def test_a_step_without_rows_does_its_edits() -> None:
    driver, _ = drivers()
    driver.step({"s": Chunk(PROMPT)})
    before = driver.executable.read_slots(0, i32([4, 5]))
    step = driver.pack({})
    kv = (replace(step.kv[0], copies=[SlotCopy(4, 30, 2)]), step.kv[1])
    assert driver.executable.run(replace(step, kv=kv)).shape == (0, HEADS * DIM)
    assert driver.executable.read_slots(0, i32([30, 31])) == before
