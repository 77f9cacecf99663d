"""Work lists of steps, made by columns, against plain loops over the rows."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from plait.ops.api import I32Array, KVInputs, StepInputs
from plait.ops.cuda.graphs import MIXED_OUTPUTS
from plait.ops.cuda.sharing import LEAST_KEYS, LEAST_MEMBERS, find_shared
from plait.ops.cuda.staging import fits, mixed_capacity, pack_step
from plait.ops.cuda.work import lengths_of, page_table, sequences_of

PAGE = 16


def i32(values: object) -> I32Array:
    return np.array(values, np.int32)


def random_tables(rng: np.random.Generator, count: int) -> list[list[int]]:
    """Pages of some sequences, many of which begin alike."""
    beginnings = rng.integers(1, 500, (3, 60)).tolist()
    tables = []
    for length in rng.integers(1, 60, count).tolist():
        own = rng.integers(1, 500, length).tolist()
        common = int(rng.integers(0, length + 1))
        tables.append(beginnings[int(rng.integers(3))][:common] + own[common:])
    return tables


@pytest.mark.parametrize("seed", range(20))
def test_work_lists_are_those_of_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = random_tables(rng, int(rng.integers(1, 40)))
    counts = [1 if seed % 3 == 0 or rng.random() < 0.7 else int(rng.integers(1, 9)) for _ in tables]
    last = rng.integers(1, PAGE + 1, len(tables)).tolist()
    entries = [
        (page, 0, last[s] if i == len(table) - 1 else PAGE)
        for s, table in enumerate(tables)
        for i, page in enumerate(table)
    ]
    starts = [0, *np.cumsum([len(table) for table in tables]).tolist()]
    none = i32([])
    inputs = KVInputs(i32(starts), i32(entries), none, none)
    row_seq = [s for s, count in enumerate(counts) for _ in range(count)]
    positions = rng.integers(0, 30, len(row_seq))
    sequences = sequences_of(StepInputs(none, i32(positions), i32(row_seq), none, (inputs,)))
    lengths, (pages, begins, page) = lengths_of(inputs), page_table(inputs, PAGE)

    single = [s for s, count in enumerate(counts) if count == 1]
    single.sort(key=lambda s: -positions[row_seq.index(s)])  # the longest are begun first
    several = [s for s, count in enumerate(counts) if count > 1]
    assert (sequences.single.tolist(), sequences.several.tolist()) == (single, several)
    assert sequences.single_row.tolist() == [row_seq.index(s) for s in single]
    assert sequences.first_row.tolist() == [row_seq.index(s) for s in several]
    assert sequences.num_rows.tolist() == [counts[s] for s in several]
    assert lengths.tolist() == [PAGE * (len(table) - 1) + last[s] for s, table in enumerate(tables)]
    assert (pages.tolist(), begins.tolist(), page) == ([e[0] for e in entries], starts[:-1], PAGE)

    shared = find_shared(pages, begins, lengths, sequences.single, sequences.single_row, page, 8)
    assert shared.skip.tolist() == [shared_keys(s, single, tables, lengths.tolist()) for s in single]


def shared_keys(sequence: int, single: list[int], tables: list[list[int]], lengths: list[int]) -> int:
    """Keys of the whole pages that all begin with whose first page is this one's."""
    group = [s for s in single if tables[s][0] == tables[sequence][0]]
    whole = min(lengths[s] for s in group) // PAGE
    common = next((i for i in range(whole) if len({tables[s][i] for s in group}) > 1), whole)
    return PAGE * common if len(group) >= LEAST_MEMBERS and PAGE * common >= LEAST_KEYS else 0


def test_a_table_with_a_ragged_page_in_its_midst_goes_slot_by_slot() -> None:
    inputs = KVInputs(i32([0, 2, 3]), i32([(4, 0, 3), (6, 0, 2), (9, 1, 2)]), i32([]), i32([]))
    slots, begins, page = page_table(inputs, PAGE)
    assert slots.tolist() == [64, 65, 66, 96, 97, 145, 146]
    assert (begins.tolist(), page) == ([0, 5], 1)


@pytest.mark.parametrize(("kv_heads", "items"), [(8, 16), (2, 64), (1, 64), (64, 8)])
def test_a_shared_beginning_is_split_into_as_many_items_as_fill_a_device(kv_heads: int, items: int) -> None:
    """Of 256 rows eight have to be, whatever there is to fill."""
    rows, pages = 256, 4096 // PAGE
    table = np.concatenate([[*range(pages), pages + s] for s in range(rows)]).astype(np.int32)
    starts, each = i32([s * (pages + 1) for s in range(rows)]), np.arange(rows)
    shared = find_shared(table, starts, np.full(rows, pages * PAGE + 1), each, each, PAGE, kv_heads)
    assert shared.items.shape[1] == items
    assert (shared.skip == pages * PAGE).all()
    first, last = shared.items[3], shared.items[4]
    assert (last - first).sum() == 8 * pages * PAGE


@pytest.mark.parametrize(("singles", "several", "wanted"), [(64, 1, 64), (96, 64, 64), (97, 1, 256), (2, 200, 256)])
def test_the_sequences_of_a_mixed_step_have_room(singles: int, several: int, wanted: int) -> None:
    rows, tile_rows = singles + 2 * several, 32
    row_seq = [*range(singles), *np.repeat(np.arange(singles, singles + several), 2).tolist()]
    count = singles + several
    inputs = KVInputs(
        i32(range(count + 1)), i32([(s + 1, 0, 2) for s in range(count)]), i32(range(rows)), i32(range(rows))
    )
    step = StepInputs(i32([0] * rows), i32([1] * rows), i32(row_seq), i32([]), (inputs,))
    packed = pack_step(step, PAGE, tile_rows, (False,), 1)
    able = [size for size in MIXED_OUTPUTS if fits(packed, mixed_capacity(512, size, tile_rows, 1, 512))]
    assert able[0] == wanted
