"""Decoding beside processes that keep the CPUs busy; see benchmarks/busy_neighbours.py."""

from __future__ import annotations

import os

import pytest

from support.scripts import load_script

busy = load_script("busy_neighbours")


@pytest.mark.parametrize(("neighbours", "share"), [(0, 1.0), (1, 2 / 3), (2, 0.5), (6, 0.25)])
def test_the_fair_share(neighbours: int, share: float) -> None:
    assert busy.fair_share(neighbours) == pytest.approx(share)


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPUs")
def test_neighbours_take_their_share_and_little_more() -> None:
    """Where others are busy, too, "alone" already has neighbours, which makes the ratio larger, not smaller."""
    rows = busy.measure(3, 0.5)
    for row, alone, _, to_one in busy.ratios(rows):
        assert alone > 0.3 or row.neighbours == 0, busy.table(rows)
        assert to_one > 0.6, busy.table(rows)
