"""Keeps Python's garbage collector out of what it would slow down or spoil. Knows nothing of engines and devices."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected in the block; what is due is done soon after it, while the device runs. A step makes some
    thousand small records, enough for several collections, none of which would find anything."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
