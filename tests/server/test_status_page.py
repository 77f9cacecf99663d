"""The status page in a real browser without a window; skipped where there is none (Debian: install chromium)."""

from __future__ import annotations

import concurrent.futures
import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.support.servers import RunningServer, start_server

import plait.server

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGE = Path(plait.server.__file__).parent / "static" / "status.html"
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium")


def page(url: str, folder: Path) -> str:
    """The page's text after three seconds of its life."""
    assert BROWSER is not None
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder}",
        "--virtual-time-budget=3000",
    ]
    command = [BROWSER, *flags, "--dump-dom", f"{url}/"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@needs_browser
def test_it_shows_the_model_and_what_runs(server: RunningServer, tmp_path: Path) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "plait": {"tenant": "<b>me</b>"}}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, "/v1/completions", body)
        shown = page(server.url, tmp_path)
        assert running.result(60)[0] == 200
    assert "plait-tales-22m-q8_0 on cpu" in shown
    assert "&lt;b&gt;me&lt;/b&gt;" in shown
    assert "KV pages free" in shown
    assert ">ready</span>" in shown
    assert ">up " in shown


@needs_browser
def test_it_asks_for_the_key(tmp_path: Path) -> None:
    with start_server("--api-key", "k") as server:
        assert "this server asks for a key" in page(server.url, tmp_path)


@needs_browser
def test_it_says_when_the_server_answers_no_more(tmp_path: Path) -> None:
    status = {
        "health": {"state": "ready", "degraded": False, "reason": "", "uptime_s": 7, "restarts": 0, "step_age_s": None},
        "open_requests": 0,
    }
    answers = [json.dumps({**status, "metrics": {"plait_waiting_samples": {"": 123}}}).encode()]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = PAGE.read_bytes() if self.path == "/" else answers.pop() if answers else None
            self.send_response(500 if data is None else 200)
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            shown = page(f"http://127.0.0.1:{server.server_port}", tmp_path)
        finally:
            server.shutdown()
            thread.join()
    assert "the server does not answer: status 500" in shown
    assert ">123</dd>" in shown
    assert 'class="stale"' in shown
