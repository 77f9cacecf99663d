"""A page of shared memory in which an engine process says what it is doing, to be read when it is dead or hangs.

A clock: since when it has been busy without a pause (0: it waits for messages). Three lists of request numbers: those
with rows in either of two steps in flight, and those that were accepted after the last step was planned. A list is
written before its count, so that a count is never ahead of it.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Sequence
from struct import Struct

CAPACITY = 16_384
"""Numbers in a list. Of more, only that there were more is kept."""
ALL = -1
"""The count of a list that was too long."""
_CLOCK = Struct("<d")
_COUNT = Struct("<q")
_LISTS = 3
_ADDED = 2
_LIST_BYTES = _COUNT.size + 8 * CAPACITY
SIZE = _CLOCK.size + _LISTS * _LIST_BYTES


class Marks:
    """Both ends map the same file. The engine's methods write, the parent's read."""

    def __init__(self, file: int) -> None:
        self._map = mmap.mmap(file, SIZE)
        self._added = 0

    @staticmethod
    def new_file() -> int:
        """A file without a name, all zeros; the descriptor is the caller's."""
        file = os.memfd_create("plait-marks")
        os.ftruncate(file, SIZE)
        return file

    def close(self) -> None:
        self._map.close()

    # --- the engine -------------------------------------------------------------------------------------------------

    def busy(self, now: float) -> None:
        """A turn of the loop begins. `now` is the time of the clock that all processes share, in seconds."""
        _CLOCK.pack_into(self._map, 0, now)

    def idle(self) -> None:
        _CLOCK.pack_into(self._map, 0, 0.0)

    def added(self, number: int) -> None:
        """A request is about to be accepted."""
        count = self._added = self._added + 1
        if count <= CAPACITY:
            _COUNT.pack_into(self._map, _start(_ADDED) + 8 * count, number)
        _COUNT.pack_into(self._map, _start(_ADDED), count if count <= CAPACITY else ALL)

    def planned(self, step: int, numbers: Sequence[int]) -> None:
        """A step with rows of these requests is about to start."""
        start, count = _start(step % 2), len(numbers)
        if count <= CAPACITY:
            first = start + _COUNT.size
            self._map[first : first + 8 * count] = array("q", numbers).tobytes()
        _COUNT.pack_into(self._map, start, count if count <= CAPACITY else ALL)
        if self._added:
            self._added = 0
            _COUNT.pack_into(self._map, _start(_ADDED), 0)

    def landed(self, step: int) -> None:
        """The step's result is taken in."""
        _COUNT.pack_into(self._map, _start(step % 2), 0)

    # --- the parent -------------------------------------------------------------------------------------------------

    @property
    def busy_since(self) -> float | None:
        """When the turn of the loop that runs now began; None between turns."""
        (since,) = _CLOCK.unpack_from(self._map, 0)
        return since or None

    def numbers(self) -> frozenset[int] | None:
        """The requests in the steps in flight, and those just accepted; None where there were too many to tell."""
        found: set[int] = set()
        for start in map(_start, range(_LISTS)):
            (count,) = _COUNT.unpack_from(self._map, start)
            if count == ALL:
                return None
            first = start + _COUNT.size
            found.update(array("q", self._map[first : first + 8 * count]))
        return frozenset(found)


def _start(number: int) -> int:
    return _CLOCK.size + number * _LIST_BYTES
