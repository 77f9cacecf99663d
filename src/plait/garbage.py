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


def settle() -> None:
    """What is there now stays for the life of the process: no collection looks at it again. For a process of one's own,
    once it is loaded: with torch in it there are a million such objects, and a full collection would hold up a step."""
    gc.collect()
    gc.freeze()
