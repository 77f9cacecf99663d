"""What a person calls a model, to a path: with a hub in memory, and the real client against a local server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from plait.errors import ModelNotFoundError
from plait.formats.hub import HubId, bundled_model, choose_files, resolve_model
from plait.formats.hub_client import HuggingFaceHub

GGUFS = ["README.md", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "q2/m-Q2_K-00001-of-00002.gguf", "q2/m-Q2_K-00002-of-00002.gguf"]
HF_FILES = [
    ".gitattributes", "config.json", "consolidated.safetensors", "generation_config.json", "model-1.safetensors",
    "model-2.safetensors", "model.safetensors.index.json", "onnx/config.json", "tokenizer.json", "tokenizer.model",
    "chat_template.jinja", "pytorch_model.bin",
]  # fmt: skip


class FakeHub:
    def __init__(self, files: list[str], folder: Path = Path("cache")) -> None:
        self.files, self.folder = files, folder
        self.downloads: list[tuple[str, list[str]]] = []

    def list_files(self, repo: str) -> list[str]:
        return self.files

    def download(self, repo: str, files: list[str]) -> Path:
        self.downloads.append((repo, files))
        return self.folder


def refusal(name: str, files: list[str] | None = None) -> str:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_model(name, FakeHub(files or []))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_existing_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model(str(tmp_path)) == tmp_path
    assert resolve_model("owner/name", FakeHub([])) == Path("owner/name")
    assert resolve_model("~/owner/name") == tmp_path / "owner" / "name"


@pytest.mark.parametrize(
    "name",
    ["./m", "../m/n", "/a/b", "~/m", "m.gguf", "owner/m.gguf", "a/b/c", "tiny", "", "a b/c", "zero\0/byte", "a:b"],
)
def test_paths_that_are_not_there(name: str) -> None:
    assert "no such file or directory" in refusal(name)


def test_mistyped_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tales-q8_0.gguf").write_text("")
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'models/tales-q8_0.gguf'?" in refusal("models/tales-q8-0.gguf")
    assert "no such file or directory" in refusal("models/other"), "beside a directory it is a path, not a hub id"


def test_bundled(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no bundled model in this installation; name a model"):
        bundled_model(tmp_path / "none")
    (tmp_path / "a.gguf").write_text("")
    assert bundled_model(tmp_path) == tmp_path / "a.gguf"
    (tmp_path / "b.gguf").write_text("")
    with pytest.raises(ModelNotFoundError, match="2 bundled models"):
        bundled_model(tmp_path)


@pytest.mark.parametrize("file", ["m-Q4_K_M.gguf", "Q4_K_M", "q4_k_m"])
def test_hub_gguf_by_name_or_quantisation(file: str) -> None:
    hub = FakeHub(GGUFS)
    assert resolve_model(f"owner/name-GGUF:{file}", hub) == Path("cache/m-Q4_K_M.gguf")
    assert hub.downloads == [("owner/name-GGUF", ["m-Q4_K_M.gguf"])]


@pytest.mark.parametrize("file", ["Q2_K", "m-Q2_K-00002-of-00002.gguf", "q2/m-Q2_K-00001-of-00002.gguf"])
def test_hub_split_gguf(file: str) -> None:
    hub = FakeHub(GGUFS)
    assert resolve_model(f"owner/name:{file}", hub) == Path("cache/q2/m-Q2_K-00001-of-00002.gguf")
    assert hub.downloads == [("owner/name", GGUFS[3:])]
    assert "lacks q2/m-Q2_K-00002-of-00002.gguf" in refusal(f"owner/name:{file}", GGUFS[:4])


def test_hub_safetensors() -> None:
    hub = FakeHub([*HF_FILES, *GGUFS])
    assert resolve_model("owner/name", hub) == Path("cache")
    left_out = {".gitattributes", "consolidated.safetensors", "onnx/config.json", "pytorch_model.bin"}
    assert hub.downloads == [("owner/name", sorted(set(HF_FILES) - left_out))]


def test_hub_choice() -> None:
    assert choose_files(HubId("o/n"), ["config.json", "one.gguf"]) == ["one.gguf"]
    assert choose_files(HubId("o/n"), GGUFS) == ["m-Q4_K_M.gguf"], "the usual one"
    assert "2 models fit, name one (o/n:m-Q8_0.gguf)" in refusal("o/n", [*GGUFS[:1], *GGUFS[2:]])
    assert "3 models fit" in refusal("o/n", [*GGUFS[1:3], "other-Q4_K_M.gguf"]), "which of two usual ones?"
    assert "no such GGUF file in the repository; it holds m-Q4_K_M.gguf, " in refusal("o/n:Q5_K_M", GGUFS)
    assert "no such GGUF file" in refusal("o/n:8_0", GGUFS), "half a word of a name is no match"
    assert "holds neither a GGUF file nor config.json" in refusal("o/n", ["pytorch_model.bin", "config.json"])
    assert "no such GGUF file" in refusal("o/n:Q8_0", ["config.json", "x.gguf"])


class HubHandler(BaseHTTPRequestHandler):
    """As much of the hub as listing and fetching takes."""

    commit = "a" * 40
    files = {"config.json": b"{}", "model.safetensors": b"tensors", "README.md": b"# Read me"}  # noqa: RUF012

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        if self.path.startswith("/api/models/owner/name/tree/"):
            tree = [{"type": "file", "path": name, "size": len(c), "oid": name} for name, c in self.files.items()]
            self.reply(200, json.dumps(tree).encode())
        elif self.path.startswith("/api/models/owner/name"):
            siblings = [{"rfilename": name} for name in self.files]
            self.reply(200, json.dumps({"id": "owner/name", "sha": self.commit, "siblings": siblings}).encode())
        elif self.path.startswith("/api/models/owner/gated"):
            self.reply(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif self.path.startswith(f"/owner/name/resolve/{self.commit}/"):
            content = self.files[self.path.rpartition("/")[2]]
            self.reply(200, content, {"ETag": f'"{len(content)}"', "X-Repo-Commit": self.commit})
        else:
            self.reply(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    def reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The local server is reached whatever this machine's settings for the real hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), HubHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_client_downloads_then_works_offline(endpoint: str, closed_endpoint: str, tmp_path: Path) -> None:
    folder = resolve_model("owner/name", HuggingFaceHub(endpoint, tmp_path))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"tensors"
    assert resolve_model("owner/name", HuggingFaceHub(closed_endpoint, tmp_path)) == folder


def test_client_errors_are_one_line(endpoint: str, closed_endpoint: str, tmp_path: Path) -> None:
    for hub, name, says in (
        (HuggingFaceHub(endpoint, tmp_path), "owner/none", "no such path here and no such model on the hub"),
        (HuggingFaceHub(endpoint, tmp_path), "owner/gated", "owner/gated: .*is gated; accept its terms"),
        (HuggingFaceHub(closed_endpoint, tmp_path), "owner/name", "the hub cannot be reached and the model is not in"),
    ):
        with pytest.raises(ModelNotFoundError, match=says) as caught:
            resolve_model(name, hub)
        assert "\n" not in str(caught.value)
