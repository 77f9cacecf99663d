"""One engine process: started, spoken to, watched, killed. Knows processes, the socket and the marks; decides nothing.

Its end is seen on the socket, which the kernel closes with the process; all that it said before is read by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

from plait.wire.frames import Frames, framed
from plait.wire.marks import Marks
from plait.wire.messages import FromEngine, Message, decode_from_engine, encode

LEAVING_S = 2.0
"""A process that has closed its end has so long to leave by itself: its exit status says why."""
REAPING_S = 10.0
"""So long a killed process may take to give its memory back, before we go on without it."""


class Child(asyncio.Protocol):
    """`take` hears every message, in order, and not one after `gone`, which holds the exit status (negative: the
    signal) once the process is dead."""

    def __init__(self, process: subprocess.Popen[bytes], marks: Marks, take: Callable[[FromEngine], None]) -> None:
        self._process = process
        self._take = take
        self._frames = Frames()
        self._transport: asyncio.WriteTransport | None = None
        self._reaper: asyncio.Task[None] | None = None
        self.marks = marks
        self.gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, take: Callable[[FromEngine], None]) -> Child:
        """A new process. Raises `OSError` where none can be had."""
        ours, theirs = socket.socketpair()
        marks = Marks.new_file()
        try:
            process = _spawn(theirs.fileno(), marks)
            child = cls(process, Marks(marks), take)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(marks)
        ours.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: child, ours)
        except BaseException:
            child.kill()
            raise
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Message) -> None:
        """Written in the background; a dead process hears nothing."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(framed(encode(message)))

    def kill(self) -> None:
        """At once, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    # --- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._frames.feed(data):
            self._take(decode_from_engine(message))

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:  # it was we who failed, and it does not leave of itself
            self.kill()
        self._reaper = asyncio.get_running_loop().create_task(self._reap())

    async def _reap(self) -> None:
        status = await self._left(LEAVING_S)
        if status is None:
            self.kill()
            status = await self._left(REAPING_S)
        if not self.gone.done():
            self.gone.set_result(-signal.SIGKILL if status is None else status)

    async def _left(self, seconds: float) -> int | None:
        """Its exit status, if it ends within that time."""
        try:
            return await asyncio.get_running_loop().run_in_executor(None, self._process.wait, seconds)
        except subprocess.TimeoutExpired:
            return None


def _spawn(connection: int, marks: int) -> subprocess.Popen[bytes]:
    """In a process group of its own, so that Ctrl-C in a terminal reaches the parent alone."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "plait.engine", str(connection), str(marks)],
        stdin=subprocess.DEVNULL,
        pass_fds=(connection, marks),
        process_group=0,
    )
