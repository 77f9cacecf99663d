"""Garbage is not collected while a step is planned, and afterwards as before."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from plait.garbage import SELDOM, seldom_collected, uncollected


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    enabled, threshold = gc.isenabled(), gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    (gc.enable if enabled else gc.disable)()


def test_nothing_is_collected_in_the_block() -> None:
    gc.enable()
    gc.collect()
    with uncollected():
        before = gc.get_stats()
        kept = [[i] for i in range(5000)]
        assert gc.get_stats() == before
    assert gc.isenabled()
    kept += [[i] for i in range(5000)]
    assert gc.get_stats()[0]["collections"] > before[0]["collections"]


def test_an_error_leaves_it_as_it_was() -> None:
    gc.enable()
    with pytest.raises(ZeroDivisionError), uncollected():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_who_switched_it_off_has_it_off() -> None:
    gc.disable()
    with uncollected():
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_a_block_of_many_steps_is_looked_at_seldom_and_what_was_there_hardly_ever() -> None:
    """Whatever has been frozen: Python 3.12 freezes some objects as it starts."""
    gc.enable()
    gc.freeze()
    gc.set_threshold(700, 10, 10)
    try:
        with seldom_collected():
            before = [each["collections"] for each in gc.get_stats()]
            kept = [[i] for i in range(SELDOM[0] - 1000)]
            assert gc.get_stats()[0]["collections"] == before[0]
            kept += [[i] for i in range(2000)]
            assert gc.get_stats()[0]["collections"] == before[0] + 1
            for _ in range(12):
                kept += [[i] for i in range(SELDOM[0])]
            assert gc.get_stats()[1]["collections"] > before[1]
            assert gc.get_stats()[2]["collections"] == before[2]
        assert gc.get_threshold() == (700, 10, 10)
    finally:
        gc.unfreeze()


def test_a_block_in_a_block_leaves_the_first_in_force() -> None:
    gc.set_threshold(700, 10, 10)
    with seldom_collected():
        with pytest.raises(ZeroDivisionError), seldom_collected():
            raise ZeroDivisionError
        assert gc.get_threshold() == SELDOM
    assert gc.get_threshold() == (700, 10, 10)
