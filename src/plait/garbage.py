"""Keeps Python's garbage collector out of what it would slow down or spoil. Knows nothing of engines and devices."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected in the block; what is due is done soon after it, while the device runs. A step makes some
    thousand small records, and loading some hundred thousand, enough for many collections that would find nothing."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


SELDOM = (50_000, 10, 100)
"""Thresholds of the collector, in place of Python's 700, 10 and 10: a step keeps some thousand objects alive until the
next, at which every look finds nothing; and a look at all there is goes through torch's million of them."""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """For a block of many steps: garbage is looked for seldom, and among all objects hardly ever. After it all is as it
    was. Of several such blocks at a time, in one another or on several threads, the first decides."""
    before = gc.get_threshold()
    if not 0 < before[0] < SELDOM[0]:
        yield
        return
    gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def settle() -> None:
    """What is there now stays for the life of the process: no collection looks at it again, and at what is new seldom.
    For a process of one's own, once it is loaded: with torch in it there are a million such objects, and a full
    collection would hold up a step."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*SELDOM)
