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


def test_a_block_of_many_steps_is_looked_at_seldom_and_what_was_there_not_at_all() -> None:
    gc.enable()
    gc.collect()
    gc.set_threshold(700, 10, 10)
    cycle: list[object] = []
    cycle.append(cycle)
    there = id(cycle)
    del cycle
    with seldom_collected():
        before = gc.get_stats()[0]["collections"]
        kept = [[i] for i in range(SELDOM - 1000)]
        assert gc.get_stats()[0]["collections"] == before
        kept += [[i] for i in range(2000)]
        assert gc.get_stats()[0]["collections"] == before + 1
        gc.collect()
        assert gc.get_freeze_count()
        assert there not in map(id, gc.get_objects())
    assert (gc.get_freeze_count(), gc.get_threshold()) == (0, (700, 10, 10))
    assert there in map(id, gc.get_objects())
    assert gc.collect()


def test_a_block_in_a_block_leaves_the_first_in_force() -> None:
    gc.set_threshold(700, 10, 10)
    with seldom_collected():
        with pytest.raises(ZeroDivisionError), seldom_collected():
            raise ZeroDivisionError
        assert gc.get_threshold()[0] == SELDOM
        assert gc.get_freeze_count()
    assert gc.get_threshold()[0] == 700
