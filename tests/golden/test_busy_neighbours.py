"""Decoding beside processes that keep the CPUs busy; see benchmarks/busy_neighbours.py."""

from __future__ import annotations

import os

import pytest

from support.scripts import load_script

busy = load_script("busy_neighbours")


@pytest.mark.parametrize(("neighbours", "share"), [(0, 1.0), (1, 2 / 3), (2, 0.5), (6, 0.25)])
def test_the_fair_share(neighbours: int, share: float) -> None:
    assert busy.fair_share(neighbours) == pytest.approx(share)


needs_two = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPUs")


@needs_two
@pytest.mark.slow
def test_neighbours_take_their_share_and_little_more() -> None:
    """Where others are busy, too, "alone" already has neighbours, which makes the ratio larger, not smaller."""
    rows = busy.measure(3, 0.5)
    for row, alone, _, _ in busy.ratios(rows):
        assert alone > 0.3 or row.neighbours == 0, busy.table(rows)


@needs_two
@pytest.mark.slow
def test_two_threads_are_not_slower_than_one() -> None:
    """A twentieth is left to noise. Where strangers want more CPUs than there are, the order of turns decides more
    than threads do: at a load of 15, ratios from 0.6 to 1.4 were seen."""
    if os.getloadavg()[0] > 1:
        pytest.skip("others are using this machine")
    rows = busy.measure(5, 0.5)
    for _, _, _, to_one in busy.ratios(rows):
        assert to_one > 0.95, busy.table(rows)
