"""Bounds and names that are another part's, as the server shows them."""

from __future__ import annotations

from pathlib import Path

from tests.support.servers import RunningServer, start_server

from plait.formats.hub import resolve_model


def test_a_grammar_that_is_too_long_is_refused(server: RunningServer) -> None:
    status, _, answer = server.post("/completion", {"prompt": "a", "grammar": "root ::= " + '"a" ' * 50_000})
    assert status == 400
    assert answer["error"]["param"] == "grammar"


def test_a_name_keeps_its_dots(tmp_path: Path) -> None:
    (tmp_path / "tale2.5-1.5b.gguf").symlink_to(resolve_model(None))
    with start_server("-m", str(tmp_path / "tale2.5-1.5b.gguf")) as running:
        assert b'"id":"tale2.5-1.5b"' in running.get("/v1/models")[2]
