"""The engine's end of the socket: messages in between steps, events out. Knows sockets and bytes; no engine."""

from __future__ import annotations

import select
import socket
import threading
import time

from plait.wire.frames import Frames, framed

READ_BYTES = 1 << 18
MOST_UNSENT = 64 << 20
"""With so many bytes that the parent has not read, the engine waits for it."""


class ParentGoneError(Exception):
    """The other end is closed: there is nobody to work for."""


class Channel:
    """Never waits in the midst of work: what the socket does not take is kept and sent later."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._frames = Frames()
        self._unsent = bytearray()
        self._lock = threading.RLock()  # what is logged comes from any thread

    def receive(self, *, wait: bool) -> list[bytes]:
        """The messages that have come. With `wait`, not before there is one. Raises `ParentGoneError`."""
        while True:
            messages = self._read()
            if messages or not wait:
                return messages
            self.pause()

    def pause(self) -> None:
        """Sleep until something has come."""
        self._pause(readable=True)

    def send(self, message: bytes) -> None:
        """Raises `ParentGoneError`."""
        with self._lock:
            self._unsent += framed(message)
            self._flush()
        while len(self._unsent) > MOST_UNSENT:
            self._pause(readable=False)

    def drain(self, seconds: float) -> None:
        """Send what is left, in that time or not at all."""
        end = time.monotonic() + seconds
        while self._unsent and (left := end - time.monotonic()) > 0:
            self._pause(readable=False, seconds=left)

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> list[bytes]:
        messages: list[bytes] = []
        while True:
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                return messages
            except OSError as error:
                raise ParentGoneError from error
            if not data:
                raise ParentGoneError
            messages += self._frames.feed(data)
            if len(data) < READ_BYTES:
                return messages

    def _flush(self) -> None:
        with self._lock:
            while self._unsent:
                try:
                    sent = self._socket.send(self._unsent)
                except BlockingIOError:
                    return
                except OSError as error:
                    raise ParentGoneError from error
                del self._unsent[:sent]

    def _pause(self, *, readable: bool, seconds: float | None = None) -> None:
        """Until there is something to read, or room for what is unsent."""
        files = [self._socket]
        select.select(files if readable else [], files if self._unsent else [], [], seconds)
        self._flush()
