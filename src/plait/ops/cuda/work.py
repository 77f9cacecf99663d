"""The attention work of a step as lists of items: which program does which keys of which rows. Knows numpy and the step
contract; knows neither torch nor kernels, and chooses no shape that a graph was captured with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from plait.ops.api import I32Array, KVInputs, StepInputs
from plait.ops.cuda.sharing import Shared, nothing_shared

I64Array: TypeAlias = npt.NDArray[np.int64]
KEYS_AT_LEAST = 128
"""A program's keys are not fewer than this where its sequence has them: merging costs, too."""
SPLITS = 32
"""Items beyond one for each single row, at most: enough to fill the device with the longest of sequences."""


@dataclass(frozen=True, slots=True)
class Work:
    """Items of single rows (5, n) and their rows (2, m + 1), items of tiles of rows (5, k), and what single rows share;
    as `kernels.decode` and `kernels.prefill` read them."""

    items: I32Array
    rows: I32Array
    tiles: I32Array
    shared: Shared


@dataclass(frozen=True, slots=True)
class Sequences:
    """Which rows a step's sequences have: those with one row, the latest positions first, so that the longest work is
    begun first; then those with several."""

    single: I64Array
    single_row: I64Array
    several: I64Array
    first_row: I64Array
    num_rows: I64Array


def sequences_of(step: StepInputs) -> Sequences:
    row_seq = step.row_seq.astype(np.int64)
    begins = np.ones(len(row_seq), np.bool_)
    np.not_equal(row_seq[1:], row_seq[:-1], out=begins[1:])
    first = np.flatnonzero(begins)
    count = np.append(first[1:], len(row_seq)) - first
    single, several = first[count == 1], first[count > 1]
    single = single[np.argsort(-step.positions[single], kind="stable")]
    return Sequences(row_seq[single], single, row_seq[several], several, count[count > 1])


def lengths_of(inputs: KVInputs) -> I64Array:
    """Keys of each sequence of the step."""
    ends = np.zeros(len(inputs.entries) + 1, np.int64)
    np.cumsum(inputs.entries[:, 2], out=ends[1:])
    own = ends[inputs.entry_start]
    lengths: I64Array = own[1:] - own[:-1]
    return lengths


def page_table(inputs: KVInputs, page_size: int, ragged: bool = False) -> tuple[I32Array, I32Array, int]:
    """The entries of all sequences, where each sequence's start, and how many slots an entry stands for: a page where
    every entry but a sequence's last is a whole page from its beginning, else one. `ragged` asks for slots."""
    page, first, count = np.ascontiguousarray(inputs.entries.T)
    begins, ends = inputs.entry_start[:-1], inputs.entry_start[1:]
    whole = count == page_size
    whole[ends[ends > begins] - 1] = True
    if whole.all() and not first.any() and not ragged:
        return page, begins, page_size
    after = np.cumsum(count)
    slots = (
        np.repeat(page * page_size + first, count)
        + np.arange(after[-1] if len(after) else 0)
        - np.repeat(after - count, count)
    )
    return slots.astype(np.int32), np.concatenate(([0], after))[begins].astype(np.int32), 1


def split_length(lengths: I64Array) -> int:
    """Keys of an item: so that there are about `SPLITS` items, a multiple of the shortest."""
    each = -(-int(lengths.sum()) // SPLITS) if len(lengths) else 1
    return -(-max(each, 1) // KEYS_AT_LEAST) * KEYS_AT_LEAST


def work_of(
    sequences: Sequences, lengths: I64Array, tile_rows: int, masked: bool, shared: Shared | None = None
) -> Work:
    """The items of a step. With `masked` no key is taken to be seen without a look at its position."""
    shared = shared or nothing_shared(len(sequences.single))
    singles = _singles(sequences, lengths, shared.skip)
    return Work(*singles, _tiles(sequences, lengths, tile_rows, masked), shared)


def _singles(sequences: Sequences, lengths: I64Array, skip: I64Array) -> tuple[I32Array, I32Array]:
    """The keys of each single row after the first `skip`."""
    own = lengths[sequences.single] - skip
    size = split_length(own)
    counts = np.maximum(-(-own // size), 1)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    which = np.repeat(np.arange(len(own)), counts)
    first = (np.arange(total) - np.repeat(ends - counts, counts)) * size
    last = np.minimum(first + size, own[which])
    own_rows, own_sequences = sequences.single_row[which], sequences.single[which]
    items = np.stack((own_rows, own_sequences, first + skip[which], last + skip[which], which))
    rows = np.zeros((2, len(own) + 1), np.int32)
    rows[0, :-1], rows[1, 1:] = sequences.single_row, ends
    return items.astype(np.int32), rows


def _tiles(sequences: Sequences, lengths: I64Array, tile_rows: int, masked: bool) -> I32Array:
    if not len(sequences.several):
        return np.zeros((5, 0), np.int32)
    counts = -(-sequences.num_rows // tile_rows)
    ends = np.cumsum(counts)
    which = np.repeat(np.arange(len(counts)), counts)
    offset = (np.arange(len(which)) - np.repeat(ends - counts, counts)) * tile_rows
    num = np.minimum(tile_rows, sequences.num_rows[which] - offset)
    own = lengths[sequences.several[which]]
    before = own - sequences.num_rows[which] + offset  # keys before the tile's first row
    keys = own if masked else before + num
    full = np.zeros_like(keys) if masked else before + 1
    tiles = np.stack((sequences.first_row[which] + offset, num, sequences.several[which], keys, full))
    # The longest come last, since they are begun first.
    return tiles[:, np.argsort(keys, kind="stable")].astype(np.int32)
