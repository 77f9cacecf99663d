"""Pages in a browser that have no business here, and what the log says of paths and failures."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from urllib.parse import urlparse

import pytest
from tests.support.servers import RunningServer, start_server


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningServer]:
    with start_server("--allowed-host", "box.lan", "--cors-origin", "https://app.example", "-v") as running:
        yield running


def post(server: RunningServer, headers: dict[str, str]) -> tuple[int, str]:
    """Status and code of a POST with just these headers."""
    where = urlparse(server.url)
    link = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
    link.putrequest("POST", "/tokenize", skip_host=True)
    body = b'{"content":"a"}'
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        link.putheader(name, value)
    link.endheaders(body)
    answer = link.getresponse()
    found = json.loads(answer.read())
    link.close()
    return answer.status, found.get("error", {}).get("code", "")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:80", "a.localhost", "box.lan:8000"]
)
def test_names_of_this_machine_are_served(strict: RunningServer, host: str) -> None:
    assert post(strict, {"Host": host}) == (200, "")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "[", "127.0.0.1.nip.io"]
)
def test_other_names_are_not(strict: RunningServer, host: str) -> None:
    assert post(strict, {"Host": host}) == (403, "foreign_page")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "https://app.example.evil"])
def test_pages_of_other_origins_cannot_post(strict: RunningServer, origin: str) -> None:
    """A form or a fetch of plain text needs nobody's leave to be sent."""
    headers = {"Host": "localhost:8000", "Origin": origin, "Content-Type": "text/plain"}
    assert post(strict, headers) == (403, "foreign_page")


@pytest.mark.parametrize("origin", ["http://localhost:8000", "https://app.example"])
def test_its_own_pages_and_those_allowed_can(strict: RunningServer, origin: str) -> None:
    assert post(strict, {"Host": "localhost:8000", "Origin": origin}) == (200, "")


def test_curl_needs_no_content_type(strict: RunningServer) -> None:
    assert post(strict, {"Host": "localhost", "Content-Type": "application/x-www-form-urlencoded"}) == (200, "")


def test_a_path_makes_no_line_of_the_log(strict: RunningServer) -> None:
    status, _, raw = strict.get("/%0Aplait:%20warning:%20forged%1b")
    assert (status, b"\\nplait" in raw) == (404, True)
    strict.get("/health")
    lines = [line for line in strict.log if "forged" in line]
    assert lines
    assert not [line for line in lines if "warning: req-" in line]
    assert not [line for line in strict.log if line.startswith("plait: warning: forged") or "\x1b" in line]
