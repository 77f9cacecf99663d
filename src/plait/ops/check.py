"""Checks of one step's inputs against the KV memory it addresses: what would read or write outside it is a ValueError.

Knows the contract in `ops.api` and numpy; does no arithmetic of the model, and knows no backend.
"""

from __future__ import annotations

import numpy as np

from plait.ops.api import I32Array, KVConfig, KVInputs, StepInputs


def check_step(step: StepInputs, config: KVConfig, vocab: int) -> None:
    """Raises ValueError when an index of `step` is out of range or its arrays do not fit each other."""
    rows = len(step.tokens)
    for name, array in (("positions", step.positions), ("row_seq", step.row_seq)):
        if array.shape != (rows,):
            raise ValueError(f"{name} has shape {array.shape}; there are {rows} tokens")
    _check_range("token", step.tokens, vocab)
    _check_range("out_rows", step.out_rows, rows)
    if not 0 <= step.hidden_only <= len(step.out_rows):
        raise ValueError(f"hidden_only is {step.hidden_only}; there are {len(step.out_rows)} output rows")
    if (step.row_seq[1:] < step.row_seq[:-1]).any():
        raise ValueError("row_seq falls; rows of one sequence are adjacent, sequences in ascending order")
    if len(step.kv) != len(config.num_pages):
        raise ValueError(f"the step has {len(step.kv)} KV groups; the memory has {len(config.num_pages)}")
    for group, (inputs, num_pages) in enumerate(zip(step.kv, config.num_pages, strict=True)):
        _check_group(f"group {group}", inputs, step, config.page_size, num_pages)


def check_slots(what: str, slots: I32Array, page_size: int, num_pages: int) -> None:
    """Raises ValueError unless every slot lies in a page that may be handed out (page 0 may not)."""
    if _outside(slots, page_size, page_size * num_pages):
        bad = slots[(slots < page_size) | (slots >= page_size * num_pages)][0]
        raise ValueError(
            f"{what}: slot {bad} is outside the pages 1..{num_pages - 1} of {page_size} slots "
            f"(slots {page_size}..{page_size * num_pages - 1})"
        )


def _check_group(what: str, inputs: KVInputs, step: StepInputs, page_size: int, num_pages: int) -> None:
    _check_tables(what, inputs, step, page_size, num_pages)
    if inputs.store_row.shape != inputs.store_slot.shape or inputs.store_row.ndim != 1:
        raise ValueError(f"{what}: store_row and store_slot are of shapes {inputs.store_row.shape} and "
                         f"{inputs.store_slot.shape}; they must be vectors of one length")  # fmt: skip
    _check_range(f"{what}: store_row", inputs.store_row, len(step.tokens))
    check_slots(f"{what}: store_slot", inputs.store_slot, page_size, num_pages)
    in_order = np.sort(inputs.store_slot)
    if (in_order[1:] == in_order[:-1]).any():
        raise ValueError(f"{what}: two rows are stored to one slot")
    for copy in inputs.copies:
        ends = np.array([copy.src, copy.src + copy.count - 1, copy.dst, copy.dst + copy.count - 1], np.int32)
        if copy.count < 1 or abs(copy.src - copy.dst) < copy.count:
            raise ValueError(f"{what}: {copy} is empty, or its source and destination overlap")
        check_slots(f"{what}: {copy}", ends, page_size, num_pages)
    if inputs.repositions:
        slots = np.array([r.slot for r in inputs.repositions], np.int32)
        check_slots(f"{what}: reposition", slots, page_size, num_pages)


def _check_tables(what: str, inputs: KVInputs, step: StepInputs, page_size: int, num_pages: int) -> None:
    starts, entries = inputs.entry_start, inputs.entries
    if starts.ndim != 1 or entries.ndim != 2 or entries.shape[1] != 3:
        raise ValueError(f"{what}: entry_start is a vector and entries is (E, 3), not {starts.shape}, {entries.shape}")
    if len(starts) == 0 or starts[0] != 0 or starts[-1] != len(entries) or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"{what}: entry_start must rise from 0 to the number of entries, {len(entries)}")
    _check_range("row_seq", step.row_seq, len(starts) - 1)
    page, first, count = np.ascontiguousarray(entries.T)
    if _outside(page, 1, num_pages):
        bad = sorted(set(page[(page < 1) | (page >= num_pages)].tolist()))
        raise ValueError(f"{what}: a page table names a page outside 1..{num_pages - 1}: {bad}")
    if _outside(first, 0, page_size + 1) or count.min(initial=0) < 0 or (first + count).max(initial=0) > page_size:
        raise ValueError(f"{what}: a page table entry reaches outside its page of {page_size} slots")


def _check_range(what: str, values: I32Array, limit: int) -> None:
    if _outside(values, 0, limit):
        bad = values[(values < 0) | (values >= limit)][0]
        raise ValueError(f"{what}: {bad} is outside 0..{limit - 1}")


def _outside(values: I32Array, low: int, high: int) -> bool:
    """Whether any is below `low` or not below `high`. Two sweeps that make nothing: who looks for which may be slow."""
    return bool(values.size) and not low <= int(values.min()) <= int(values.max()) < high
