"""One connection, as uvicorn has it, but for clients that hold it: readers that stop reading, writers whose request
does not come to its end, heads of any size. Knows bytes and time.

A timer runs only while the socket takes nothing, so that a write to whoever reads costs nothing more. What a reader
leaves lying is bounded: above the kernel's buffers, sending waits.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import termios
from http import HTTPStatus
from struct import Struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CHECKS = 4
"""Looks within the time-out."""
MAX_HEAD = 64 * 1024
"""Bytes of a request's first line and headers."""
TOO_LARGE = (431, "The request's headers are too large.")
TOO_SLOW = (408, "The request took too long to come.")
_INT = Struct("i")
_log = logging.getLogger("plait.server")


class Connection(HttpToolsProtocol):
    """`send_timeout`: seconds in which the reader must take something of what waits for it. `receive_timeout`: seconds
    in which a request must have come, head and body, from its first byte or the connection's beginning. 0 is no
    bound."""

    def __init__(self, *args: Any, send_timeout: float = 0.0, receive_timeout: float = 0.0, **named: Any) -> None:
        super().__init__(*args, **named)
        self._send_timeout, self._receive_timeout = send_timeout, receive_timeout
        self._receiving: asyncio.TimerHandle | None = None
        self._in_head = True
        self._head = 0
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0
        self._idle_looks = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=1)  # paused is: the kernel takes no more; TLS takes 0 for always
        self._expect()

    # --- what comes in ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._head = self._head + len(data) if self._in_head else 0
        super().data_received(data)
        if self._in_head and self._head > MAX_HEAD and not self.transport.is_closing():
            self._refuse(*TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._expect()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_is_large():
            raise ValueError("the headers are too large")  # the parser stops, and `send_400_response` answers
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._head = True, 0
        self._unexpect()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(*(TOO_LARGE if self._head_is_large() else (400, msg)))

    def _head_is_large(self) -> bool:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers or ()) > MAX_HEAD

    def _refuse(self, status: int, message: str) -> None:
        phrase = HTTPStatus(status).phrase
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
        self.transport.write(f"{head}content-length: {len(message)}\r\nconnection: close\r\n\r\n{message}".encode())
        self.transport.close()

    def _expect(self) -> None:
        if self._receive_timeout and self._receiving is None:
            self._receiving = self.loop.call_later(self._receive_timeout, self._is_late)

    def _unexpect(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None

    def _is_late(self) -> None:
        self._receiving = None
        if self.pipeline:  # it waits for the answer to the one before: its rest is not even read
            self._expect()
        elif not self.transport.is_closing():
            _log.info("a request did not come to its end within %g s, and is cut off", self._receive_timeout)
            if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
                self._refuse(*TOO_SLOW)
            else:
                self.transport.close()

    # --- what goes out ----------------------------------------------------------------------------------------------

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
        self._unexpect()
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
