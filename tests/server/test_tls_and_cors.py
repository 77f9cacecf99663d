"""TLS by files over a real socket; pages of other origins are let in by name only."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest
from tests.support.servers import RunningServer, start_server

ORIGIN = "https://page.example"


def preflight(server: RunningServer, origin: str) -> str | None:
    """What the server allows a page of `origin`, asked as a browser asks."""
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    _, headers, _ = server.send("OPTIONS", "/v1/completions", None, asked)
    return {name.lower(): value for name, value in headers.items()}.get("access-control-allow-origin")


def test_other_origins_are_let_in_by_name() -> None:
    with start_server("--cors-origin", ORIGIN) as server:
        assert preflight(server, ORIGIN) == ORIGIN
        assert preflight(server, "https://other.example") is None


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_tls(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {certificate}"
    subprocess.run([*made.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    with start_server("--ssl-cert-file", str(certificate), "--ssl-key-file", str(key)) as server:
        assert server.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(certificate))
        with urllib.request.urlopen(f"{server.url}/v1/models", context=trusting, timeout=60) as answer:
            assert json.load(answer)["object"] == "list"
