"""`plait pull` against a hub on this machine, over a real socket: revisions, what is fetched again, and every way to
fail in one line."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

MAIN, OTHER = "a" * 40, "b" * 40
BIG = bytes(range(256)) * (3 << 15)  # 24 MiB: the client keeps whole stretches of 10 MiB


@dataclass
class Hub(ThreadingHTTPServer):
    """`cut`: that many answers with a file's bytes end in the middle. `ranges` are those that were asked for."""

    files: dict[str, dict[str, bytes]]
    cut: int = 0
    ranges: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    daemon_threads = True

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[3] == "name":
            self.about(parts[5] if len(parts) > 5 else "main", tree="tree" in parts)
        elif parts[:2] == ["api", "models"] and parts[3] == "gated":
            self.reply(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif parts[2:3] == ["resolve"] and parts[3] in self.server.files:
            self.file(parts[3], "/".join(parts[4:]))
        else:
            self.reply(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    def about(self, revision: str, tree: bool) -> None:
        commit = {"main": MAIN, "v2": OTHER}.get(revision, revision)
        if commit not in self.server.files:
            self.reply(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            return
        files = self.server.files[commit]
        siblings = [{"rfilename": name} for name in files]
        listed = [{"type": "file", "path": name, "size": len(c), "oid": name} for name, c in files.items()]
        answer: object = listed if tree else {"id": "owner/name", "sha": commit, "siblings": siblings}
        self.reply(200, json.dumps(answer).encode())

    def file(self, commit: str, name: str) -> None:
        content, asked = self.server.files[commit][name], self.headers.get("Range")
        headers = {"ETag": f'"{commit[:1]}-{name}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        start, status = 0, 200
        if asked:
            self.server.ranges.append(asked)
            start, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET":
            self.server.fetched.append(name)
        self.reply(status, content[start:], headers)

    def reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "GET":
            return
        if self.server.cut and len(content) > 1 << 20:
            self.server.cut -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    main = {"m-Q4_K_M.gguf": BIG, "m-Q8_0.gguf": b"eight", "README.md": b"# Read me"}
    server = Hub({MAIN: main, OTHER: {"m-Q4_K_M.gguf": b"the second version"}})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def pull(endpoint: str, home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "plait", "pull", *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def pulled(endpoint: str, home: Path, *args: str) -> Path:
    done = pull(endpoint, home, *args)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def refused(endpoint: str, home: Path, *args: str) -> str:
    done = pull(endpoint, home, *args)
    assert (done.returncode, done.stdout) == (1, "")
    lines = [line for line in done.stderr.splitlines() if line.startswith("plait: error:")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_files_revisions_and_the_cache(hub: Hub, tmp_path: Path) -> None:
    path = pulled(hub.endpoint, tmp_path, "owner/name")
    assert (path.name, path.read_bytes()) == ("m-Q4_K_M.gguf", BIG)
    assert pulled(hub.endpoint, tmp_path, "owner/name:Q8_0").read_bytes() == b"eight"
    assert hub.fetched == ["m-Q4_K_M.gguf", "m-Q8_0.gguf"]
    assert pulled(hub.endpoint, tmp_path, "owner/name") == path
    assert len(hub.fetched) == 2, "what is in the cache is not fetched again"
    for revision in ("v2", OTHER):
        assert pulled(hub.endpoint, tmp_path, "owner/name", "--revision", revision).read_bytes().startswith(b"the sec")


def test_what_was_broken_off_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.cut = 1
    first = pull(hub.endpoint, tmp_path, "owner/name")
    path = pulled(hub.endpoint, tmp_path, "owner/name") if first.returncode else Path(first.stdout.strip())
    assert path.read_bytes() == BIG
    assert [int(asked.removeprefix("bytes=").split("-")[0]) for asked in hub.ranges] == [10 << 20]


def test_refusals_are_one_line(hub: Hub, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for endpoint, args, says in (
        (hub.endpoint, ["owner/none"], "no such model on the hub"),
        (hub.endpoint, ["owner/gated"], "is gated; accept its terms on the hub and run `hf auth login`"),
        (hub.endpoint, ["owner/name", "--revision", "v9"], "the hub has no revision 'v9'"),
        (hub.endpoint, ["owner/name:Q5_K_M"], "no such GGUF file in the repository; it holds m-Q4_K_M.gguf, m-Q8_0"),
        (hub.endpoint, ["nobody"], "is no hub id"),
        (closed, ["owner/name"], "the hub cannot be reached and the model is not in the local cache"),
    ):
        assert says in refused(endpoint, tmp_path, *args)


def test_offline_the_cache_is_enough(hub: Hub, tmp_path: Path) -> None:
    path = pulled(hub.endpoint, tmp_path, "owner/name")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    assert pulled(closed, tmp_path, "owner/name") == path
