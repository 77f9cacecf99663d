"""A client that stops reading: what waits for it is bounded, others go on, and it is cut off."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest
from tests.support.servers import RunningServer, start_server

TIMEOUT_S = 1.5
READERS = 4
END = b"0\r\n\r\n"
FAT = {"prompt": "Once upon a time", "n_predict": 1500, "stream": True, "n_probs": 100, "ignore_eos": True}
"""An event of some ten kilobytes for each token: more than the kernel's buffers take."""


@pytest.fixture(scope="module")
def impatient() -> Iterator[RunningServer]:
    with start_server("--send-timeout", str(TIMEOUT_S)) as running:
        yield running


def stuck_reader(server: RunningServer, body: dict[str, object]) -> socket.socket:
    """A request whose answer nobody reads."""
    where = urlparse(server.url)
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect((where.hostname, where.port))
    data = json.dumps(body).encode()
    head = f"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    made.sendall(f"{head}\r\n".encode() + data)
    return made


def rest_of(reader: socket.socket) -> bytes:
    """What the kernel still has, up to the connection's end."""
    found = b""
    with reader, contextlib.suppress(ConnectionResetError):
        reader.settimeout(10)
        while part := reader.recv(1 << 16):
            found = found[-len(END) :] + part
    return found


def resident_mib(server: RunningServer) -> float:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096 / 2**20


def cut_off(server: RunningServer) -> int:
    return sum("is cut off" in line for line in server.log)


def test_a_reader_that_stops_is_cut_off_and_holds_nobody_up(impatient: RunningServer) -> None:
    impatient.post("/completion", {"prompt": "a", "n_predict": 20, "n_probs": 100})
    impatient.wait_idle()
    before = impatient.pages()
    memory, began = resident_mib(impatient), time.monotonic()
    readers = [stuck_reader(impatient, FAT) for _ in range(READERS)]
    most, slowest = memory, 0.0
    while cut_off(impatient) < READERS and time.monotonic() - began < 60:
        asked = time.monotonic()
        status, _, answer = impatient.post("/completion", {"prompt": "The cat", "n_predict": 8, "temperature": 0})
        slowest = max(slowest, time.monotonic() - asked)
        assert (status, answer["tokens_predicted"]) == (200, 8)
        most = max(most, resident_mib(impatient))
    assert cut_off(impatient) == READERS, impatient.log
    assert most - memory < 64, f"{most - memory:.0f} MiB wait for {READERS} readers"
    assert slowest < 10  # a step beside four others takes milliseconds; their time-out has nothing to do with it
    impatient.wait_idle()
    after = impatient.pages()
    assert after["free"] + after["cached"] == before["free"] + before["cached"]
    for reader in readers:
        assert not rest_of(reader).endswith(END)
    assert not [line for line in impatient.log if "Traceback" in line]


def test_a_reader_that_is_slow_but_reads_gets_all_of_it(impatient: RunningServer) -> None:
    """Longer than the time-out in all, but never so long without a byte."""
    already = cut_off(impatient)
    reader = stuck_reader(impatient, {**FAT, "n_predict": 600})
    reader.settimeout(30)
    began, found = time.monotonic(), b""
    while not found.endswith(END):
        part = reader.recv(1 << 16)
        assert part, "the answer ends too early"
        found += part
        if time.monotonic() - began < 2 * TIMEOUT_S:
            time.sleep(0.05)
    reader.close()
    assert found.count(b'"stop":false') >= 590
    assert cut_off(impatient) == already
