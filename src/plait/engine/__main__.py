"""`python -m plait.engine SOCKET MARKS`: the engine process. The two are descriptors that its parent left open.

It lives as long as its parent: the kernel kills it when that dies, and so does the end of the socket. Ctrl-C and
SIGTERM are the parent's business, which ends what runs in good order. The engine is imported late: these hold first.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import sys

PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> int:
    """The process's whole life; returns its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with_parent()
    faulthandler.enable()
    connection, marks = (int(argument) for argument in sys.argv[1:3])
    for file in (connection, marks):
        os.set_inheritable(file, False)

    from plait.engine.serve import serve

    return serve(socket.socket(fileno=connection), marks)


if __name__ == "__main__":
    sys.exit(main())
