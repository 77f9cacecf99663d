"""The status page in a real browser without a window; skipped where there is none (Debian: install chromium)."""

from __future__ import annotations

import concurrent.futures
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.servers import RunningServer, start_server

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium")


def page(server: RunningServer, folder: Path) -> str:
    """The page's text after three seconds of its life."""
    assert BROWSER is not None
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder}",
        "--virtual-time-budget=3000",
    ]
    command = [BROWSER, *flags, "--dump-dom", f"{server.url}/"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@needs_browser
def test_it_shows_the_model_and_what_runs(server: RunningServer, tmp_path: Path) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 6000, "ignore_eos": True, "plait": {"tenant": "<b>me</b>"}}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, "/v1/completions", body)
        shown = page(server, tmp_path)
        assert running.result(60)[0] == 200
    assert "plait-tales-22m-q8_0 on cpu" in shown
    assert "&lt;b&gt;me&lt;/b&gt;" in shown
    assert "KV pages free" in shown
    assert "ready, up" in shown


@needs_browser
def test_it_asks_for_the_key(tmp_path: Path) -> None:
    with start_server("--api-key", "k") as server:
        assert "this server asks for a key" in page(server, tmp_path)
