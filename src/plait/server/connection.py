"""One connection, as uvicorn has it, but for readers that stop reading: those are cut off. Knows bytes and time.

A timer runs only while the socket takes nothing, so that a write to whoever reads costs nothing more. What a reader
leaves lying is bounded: above the kernel's buffers, sending waits.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import termios
from struct import Struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CHECKS = 4
"""Looks within the time-out."""
_INT = Struct("i")
_log = logging.getLogger("plait.server")


class Connection(HttpToolsProtocol):
    """`send_timeout`: seconds in which the reader must take something of what waits for it; 0 is no bound."""

    def __init__(self, *args: Any, send_timeout: float = 0.0, **named: Any) -> None:
        super().__init__(*args, **named)
        self._send_timeout = send_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0
        self._idle_looks = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=1)  # paused is: the kernel takes no more; TLS takes 0 for always

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._send_timeout and self._timer is None:
            self._left, self._idle_looks = self._waiting(), 0
            self._arm()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _waiting(self) -> int:
        """Bytes that the reader has not taken, the kernel's among them: its buffer takes more only when a third of it
        is free, which may be long after a slow reader's last byte."""
        queued = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(_INT.size))
        return self.transport.get_write_buffer_size() + int(_INT.unpack(queued)[0])

    def _arm(self) -> None:
        self._timer = self.loop.call_later(self._send_timeout / CHECKS, self._look)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        left = self._waiting()
        self._idle_looks = self._idle_looks + 1 if left >= self._left else 0
        self._left = left
        if self._idle_looks < CHECKS:
            self._arm()
            return
        self._timer = None
        _log.warning("a reader took nothing for %g s, and is cut off", self._send_timeout)
        self.transport.abort()
