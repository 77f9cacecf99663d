"""Which single rows of a step have the same beginning, so that its keys are read once for many of them. Knows numpy and
page tables; knows neither torch nor kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from plait.ops.api import I32Array

I64Array: TypeAlias = npt.NDArray[np.int64]
MEMBERS = 32
"""Rows of an item, at most."""
LEAST_MEMBERS, LEAST_KEYS = 4, 256
"""Fewer rows, or a shorter beginning, are not worth a launch more."""
MOST_ITEMS = 64
PROGRAMS = 128
"""Items times KV heads that fill a device. With more, partials are written and read again that nobody needed."""
KEYS = 256
"""Keys of an item, at least."""


@dataclass(frozen=True, slots=True)
class Shared:
    """`items` (5, n): first member, members, sequence, first key, end; `members`: their rows; `of_row` (3, m): for each
    single row its first item, how many, and its place among their members. `skip` (m,): keys that are in them."""

    items: I32Array
    members: I32Array
    of_row: I32Array
    skip: I64Array


def nothing_shared(rows: int) -> Shared:
    none = np.zeros(0, np.int32)
    return Shared(np.zeros((5, 0), np.int32), none, np.zeros((3, rows), np.int32), np.zeros(rows, np.int64))


def find_shared(
    table: I32Array, starts: I32Array, lengths: I64Array, sequences: I64Array, rows: I64Array, page: int, kv_heads: int
) -> Shared:
    """Of the single rows `rows` of `sequences`: `table` holds the page ids of all sequences, s from starts[s] on, and
    lengths[s] its keys. Sequences with the same first page are compared as far as all of them go."""
    if len(rows) < LEAST_MEMBERS:
        return nothing_shared(len(rows))
    first = table[starts[sequences]]
    order = np.argsort(first, kind="stable")
    first = first[order]
    begins = np.ones(len(order), np.bool_)
    np.not_equal(first[1:], first[:-1], out=begins[1:])
    begin = np.flatnonzero(begins)
    size = np.append(begin[1:], len(order)) - begin
    large = size >= LEAST_MEMBERS
    groups = [
        (group, keys)
        for at, count in zip(begin[large].tolist(), size[large].tolist(), strict=True)
        if (keys := _common(table, starts, lengths, sequences[group := order[at : at + count]], page)) >= LEAST_KEYS
    ]
    return _items(groups, sequences, rows, PROGRAMS // kv_heads) if groups else nothing_shared(len(rows))


def _common(table: I32Array, starts: I32Array, lengths: I64Array, group: I64Array, page: int) -> int:
    """Keys of the whole pages with which all of these begin."""
    pages = int(lengths[group].min()) // page
    own = table[starts[group][:, None] + np.arange(pages)]
    same = (own == own[0]).all(0)
    return page * (pages if same.all() else int(same.argmin()))


def _items(groups: list[tuple[I64Array, int]], sequences: I64Array, rows: I64Array, enough: int) -> Shared:
    """Keys are split further as long as there are fewer than `enough` items."""
    found = nothing_shared(len(rows))
    chunks = sum(-(-len(group) // MEMBERS) for group, _ in groups)
    items: list[tuple[int, int, int, int, int]] = []
    members: list[I64Array] = []
    at = 0
    for group, keys in groups:
        splits = max(1, min(-(-keys // KEYS), min(enough, MOST_ITEMS) // chunks))
        size = -(-keys // splits)
        if len(items) + splits * -(-len(group) // MEMBERS) > MOST_ITEMS:
            break
        found.skip[group] = keys
        members.append(rows[group])
        for start in range(0, len(group), MEMBERS):
            part = group[start : start + MEMBERS]
            found.of_row[0, part], found.of_row[1, part] = len(items), splits
            found.of_row[2, part] = np.arange(len(part))
            items += [
                (at + start, len(part), int(sequences[part[0]]), first, min(first + size, keys))
                for first in range(0, splits * size, size)
            ]
        at += len(group)
    if not items:
        return found
    return Shared(
        np.array(items, np.int32).T.copy(), np.concatenate(members).astype(np.int32), found.of_row, found.skip
    )
