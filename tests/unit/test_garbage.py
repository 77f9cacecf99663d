"""Garbage is not collected while a step is planned, and afterwards as before."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from plait.garbage import uncollected


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    enabled = gc.isenabled()
    yield
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
