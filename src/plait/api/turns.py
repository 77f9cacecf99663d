"""A lock for threads that share an engine. Knows nothing of engines."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class Turns:
    """A lock that is handed on in the order in which it was asked for.

    With a plain lock the thread that has just run a step takes the next one before any other wakes up: its stream flows
    and the others stall.
    """

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._held = False

    def __enter__(self) -> None:
        with self._gate:
            if not self._held:
                self._held = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            turn.acquire()
        except BaseException:  # interrupted while it waited, or just when its turn had come
            with self._gate:
                called = turn not in self._waiting
                if not called:
                    self._waiting.remove(turn)
            if called:
                self._hand_on()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hand_on()

    def _hand_on(self) -> None:
        with self._gate:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False
