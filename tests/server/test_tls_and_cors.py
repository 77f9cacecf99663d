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


def test_other_origins_are_not_let_in_unless_named(server: RunningServer) -> None:
    """A preflight is a method that no route has, and no answer allows an origin."""
    assert preflight(server, ORIGIN) is None
    assert preflight(server, "null") is None
    for path in ("/v1/models", "/none"):
        _, headers, _ = server.get(path, {"Origin": ORIGIN})
        assert not [name for name in headers if name.lower().startswith("access-control")]


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
        whole, streamed = (_texts(server.url, trusting, stream) for stream in (False, True))
        assert streamed == whole
        assert min(map(len, whole)) > 200


def _texts(url: str, trusting: ssl.SSLContext, stream: bool) -> list[str]:
    """Of four long samples, as they are whole and as they come in a stream."""
    body = {"prompt": "Once", "n": 4, "max_tokens": 200, "seed": 1, "ignore_eos": True, "stream": stream}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    texts = ["", "", "", ""]
    with urllib.request.urlopen(request, context=trusting, timeout=60) as answer:
        raw = answer.read().decode()
    lines = [line.removeprefix("data: ") for line in raw.split("\n\n") if line] if stream else [raw]
    assert (lines[-1] == "[DONE]") is stream
    for line in lines[:-1] if stream else lines:
        for choice in json.loads(line)["choices"]:
            texts[choice["index"]] += choice["text"]
    return texts
