"""Requests that do not come: silent, slow, endless or cut off. Over a raw socket."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlparse

import pytest
from tests.support.servers import RunningServer, start_server

TIMEOUT_S = 1.0
HEAD = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningServer]:
    with start_server("--receive-timeout", str(TIMEOUT_S), "--max-connections", "2") as running:
        yield running


def connect(server: RunningServer) -> socket.socket:
    where = urlparse(server.url)
    return socket.create_connection((where.hostname, where.port), timeout=20)


def rest(one: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    with one:
        while part := one.recv(1 << 16):
            found += part
    return found


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /tok",
        HEAD,
        HEAD + b'Content-Length: 100\r\n\r\n{"content":',
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_request_that_does_not_come_is_cut_off(strict: RunningServer, sent: bytes) -> None:
    one, began = connect(strict), time.monotonic()
    one.sendall(sent)
    assert rest(one).startswith(b"HTTP/1.1 408 ")
    assert TIMEOUT_S * 0.9 < time.monotonic() - began < 15


def test_one_that_trickles_is_cut_off_too(strict: RunningServer) -> None:
    one = connect(strict)
    one.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
    sent = 0
    with one, contextlib.suppress(OSError):
        for _ in range(900):
            one.sendall(b" ")
            sent += 1
            time.sleep(0.1)
    assert sent < 900


def test_slow_bodies_do_not_keep_their_seats(strict: RunningServer) -> None:
    slow = [connect(strict) for _ in range(2)]
    for one in slow:
        one.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    end, status = time.monotonic() + 15, 0
    while status != 200 and time.monotonic() < end:
        status = strict.post("/tokenize", {"content": "a"})[0]
    assert status == 200
    for one in slow:
        assert rest(one).startswith(b"HTTP/1.1 408 ")


def test_a_pause_between_requests_is_none_within_one(strict: RunningServer) -> None:
    """Keep-alive has a time-out of its own, and an answer may take longer than a request."""
    body = b'{"content":"a"}'
    with connect(strict) as one:
        for pause in (0.0, 2 * TIMEOUT_S):
            time.sleep(pause)
            one.sendall(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            found = b""
            while not found.endswith(b"}"):
                part = one.recv(1 << 16)
                assert part, "the server closes a connection that is kept alive"
                found += part
            assert found.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("header", [b"X-A: " + b"a" * 500 + b"\r\n", b"X-A: " + b"a" * (1 << 16)])
def test_headers_are_bounded(strict: RunningServer, header: bytes) -> None:
    one, sent = connect(strict), 0
    one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
    with one, contextlib.suppress(OSError):
        while sent < 1 << 24:
            one.sendall(header)
            sent += len(header)
    assert sent < 1 << 23


def test_headers_that_come_at_once_are_bounded(strict: RunningServer) -> None:
    one = connect(strict)
    one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 100_000 + b"\r\n\r\n")
    found = b""
    with one:
        found = one.recv(1 << 16)
    assert found.startswith(b"HTTP/1.1 431 ")


def test_leaving_during_the_upload_is_no_error_of_ours(strict: RunningServer) -> None:
    one = connect(strict)
    one.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    time.sleep(0.2)
    one.close()
    time.sleep(0.2)
    assert strict.post("/tokenize", {"content": "a"})[0] == 200
    assert strict.status()["open_requests"] == 1
    assert not [line for line in strict.log if "Traceback" in line]
