"""Edits of the reference backend's KV memory, saving and restoring it, and the checks of a step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from plait.errors import BackendError
from plait.ops.api import (
    KVConfig,
    Reposition,
    Rope,
    SlotCopy,
    StepInputs,
)
from plait.ops.reference import ReferenceBackend
from support.kv import CONFIG, DIM, KV_HEADS, VOCAB, attention_layers, check_a_row_stored_twice
from support.kv import ROPES as LAYER_ROPES
from support.steps import Chunk, Driver, i32

ROPES = LAYER_ROPES[:2]


def new_driver(config: KVConfig = CONFIG, ropes: tuple[Rope | None, Rope | None] = ROPES) -> Driver:
    return Driver(ReferenceBackend().compile(attention_layers(ropes), config), config)


def with_edits(step: StepInputs, *edits: dict[str, object]) -> StepInputs:
    return replace(step, kv=tuple(replace(kv, **edit) for kv, edit in zip(step.kv, edits, strict=True)))


def shifted(step: StepInputs, by: int) -> StepInputs:
    return replace(step, positions=step.positions + np.int32(by))


@pytest.mark.parametrize("ropes", [ROPES, (None, None)], ids=["rope", "no-rope"])
def test_repositioned_keys_are_as_if_computed_there(ropes: tuple[Rope | None, Rope | None]) -> None:
    """Moving every key by 5 and going on at 5 further gives what a prompt at those positions would have given.
    Attention depends on differences of positions only, so it also gives what the unmoved sequence gives."""
    prompt, extra = [3, 1, 4, 1, 5, 9], [2]
    plain = new_driver(ropes=ropes)
    plain.step({"s": Chunk(prompt)})
    want = plain.step({"s": Chunk.every(extra)})["s"]

    moved = new_driver(ropes=ropes)
    moved.step({"s": Chunk(prompt)})
    slots = [moved.slots("s", g) for g in (0, 1)]
    step = shifted(moved.pack({"s": Chunk.every(extra)}), 5)
    edits = [{"repositions": [Reposition(int(slot), i + 5) for i, slot in enumerate(slots[g])]} for g in (0, 1)]
    np.testing.assert_allclose(moved.executable.run(with_edits(step, *edits)), want, rtol=1e-5, atol=1e-5)


def test_reposition_masks_by_the_new_position() -> None:
    """A key moved past the row is hidden from it: the row sees only itself."""
    alone = new_driver()
    want = alone.executable.run(alone.pack({"s": Chunk.every([7])}))
    driver = new_driver()
    driver.step({"s": Chunk([3])})
    slots = [driver.slots("s", g) for g in (0, 1)]
    step = shifted(driver.pack({"s": Chunk.every([7])}), -1)
    edits = [{"repositions": [Reposition(int(slots[g][0]), 30)]} for g in (0, 1)]
    np.testing.assert_array_equal(driver.executable.run(with_edits(step, *edits)), want)


def test_copies_come_before_repositions_and_writes() -> None:
    """A second sequence continues from a copy of the first one's slots, bit for bit; the source stays as it was."""
    prompt = [3, 1, 4, 1, 5]
    plain = new_driver()
    plain.step({"s": Chunk(prompt)})
    want = plain.step({"s": Chunk.every([9])})["s"]

    driver = new_driver()
    driver.step({"s": Chunk(prompt)})
    source = [driver.slots("s", g) for g in (0, 1)]
    driver.pack({"t": Chunk(prompt)})  # reserves slots for t without running the step
    step = driver.pack({"t": Chunk.every([9])})
    edits = [
        {"copies": [SlotCopy(int(a), int(b), 1) for a, b in zip(source[g], driver.slots("t", g), strict=False)]}
        for g in (0, 1)
    ]
    np.testing.assert_array_equal(driver.executable.run(with_edits(step, *edits)), want)
    np.testing.assert_array_equal(driver.step({"s": Chunk.every([9])})["s"], want)


def test_a_row_may_be_stored_for_several_sequences() -> None:
    check_a_row_stored_twice(new_driver())


@pytest.mark.parametrize("kv_type", ["f32", "f16", "bf16"])
def test_saved_slots_go_on_elsewhere_with_the_same_bits(kv_type: str) -> None:
    config = replace(CONFIG, kv_type=kv_type)
    first = new_driver(config)
    first.step({"s": Chunk([3, 1, 4, 1, 5, 9, 2])})
    saved = [first.executable.read_slots(g, first.slots("s", g)) for g in (0, 1)]
    want = first.step({"s": Chunk.every([6, 5])})["s"]

    second = new_driver(config)
    second.step({"other": Chunk([8] * 9)})
    second.pack({"s": Chunk([0] * 7)})
    for g in (0, 1):
        second.executable.write_slots(g, second.slots("s", g), saved[g])
    np.testing.assert_array_equal(second.step({"s": Chunk.every([6, 5])})["s"], want)


def test_kv_bytes_counts_keys_values_and_positions() -> None:
    per_token = 2 * KV_HEADS * DIM
    assert new_driver().executable.kv_bytes() == (40 + 48) * (4 * per_token + 4)
    assert new_driver(replace(CONFIG, kv_type="f16")).executable.kv_bytes() == (40 + 48) * (2 * per_token + 4)


def test_what_cannot_be_compiled() -> None:
    with pytest.raises(BackendError, match="f32, f16, bf16, q8_0, not q4_0"):
        ReferenceBackend().compile(attention_layers(), replace(CONFIG, kv_type="q4_0"))
    with pytest.raises(ValueError, match="1 numbers for 2 KV groups"):
        ReferenceBackend().compile(attention_layers(), replace(CONFIG, num_pages=(10,)))


def kv_with(step: StepInputs, **changes: object) -> StepInputs:
    return replace(step, kv=(replace(step.kv[0], **changes), step.kv[1]))


BAD_STEPS = {
    "token past the vocabulary": (lambda s: replace(s, tokens=i32([1, VOCAB])), "token: 20"),
    "negative token": (lambda s: replace(s, tokens=i32([1, -1])), "token: -1"),
    "positions of another length": (lambda s: replace(s, positions=i32([0])), "positions"),
    "falling row_seq": (lambda s: replace(s, row_seq=i32([1, 0])), "row_seq falls"),
    "row_seq without a table": (lambda s: replace(s, row_seq=i32([0, 1])), "row_seq: 1"),
    "output past the rows": (lambda s: replace(s, out_rows=i32([2])), "out_rows: 2"),
    "a KV group too few": (lambda s: replace(s, kv=s.kv[:1]), "1 KV groups"),
    "page past the memory": (lambda s: kv_with(s, entries=i32([[10, 0, 2]])), "outside 1..9"),
    "reserved page": (lambda s: kv_with(s, entries=i32([[0, 0, 2]])), "outside 1..9"),
    "entry past its page": (lambda s: kv_with(s, entries=i32([[1, 3, 2]])), "reaches outside"),
    "entries that entry_start forgets": (lambda s: kv_with(s, entries=i32([[1, 0, 2], [2, 0, 1]])), "entry_start"),
    "slot past the memory": (lambda s: kv_with(s, store_slot=i32([4, 40])), "slot 40"),
    "slot of the reserved page": (lambda s: kv_with(s, store_slot=i32([4, 3])), "slot 3"),
    "stored row past the rows": (lambda s: kv_with(s, store_row=i32([0, 2])), "store_row: 2"),
    "two rows to one slot": (lambda s: kv_with(s, store_slot=i32([4, 4])), "two rows"),
    "slots and rows of two lengths": (lambda s: kv_with(s, store_row=i32([0])), "one length"),
    "copy past the memory": (lambda s: kv_with(s, copies=[SlotCopy(4, 38, 3)]), "slot 40"),
    "overlapping copy": (lambda s: kv_with(s, copies=[SlotCopy(4, 6, 3)]), "overlap"),
    "reposition past the memory": (lambda s: kv_with(s, repositions=[Reposition(-1, 0)]), "slot -1"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_STEPS.values(), ids=BAD_STEPS.keys())
def test_a_step_out_of_range_is_refused(spoil, message: str) -> None:
    driver = new_driver()
    good = driver.pack({"s": Chunk.every([1, 2])})
    with pytest.raises(ValueError, match=message):
        driver.executable.run(spoil(good))
    driver.executable.run(good)


def test_slots_out_of_range_are_refused() -> None:
    executable = new_driver().executable
    with pytest.raises(ValueError, match="slot 40"):
        executable.read_slots(0, i32([40]))
    with pytest.raises(ValueError, match="no KV group 2"):
        executable.read_slots(2, i32([4]))
    with pytest.raises(ValueError, match="expected"):
        executable.write_slots(0, i32([4]), b"123")
