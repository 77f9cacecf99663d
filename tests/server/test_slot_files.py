"""Names of slot files that no file can have, on a server that saves slots."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.servers import start_server

WRONG = ("a\0b", "a\nb", "a\x7fb", "..", ".hidden", "up/../a", "", "a\ud800b")


@pytest.mark.parametrize("action", ["save", "restore"])
def test_a_name_that_is_no_name_is_refused_and_the_engine_lives(tmp_path: Path, action: str) -> None:
    with start_server("--slot-save-path", str(tmp_path)) as server:
        prompt = "Once upon a time there was a little girl who had a big red ball. " * 3
        server.post("/completion", {"prompt": prompt, "n_predict": 1})
        for name in WRONG:
            status, _, answer = server.post(f"/slots/0?action={action}", {"filename": name, "prompt": prompt})
            assert (status, answer["error"]["code"]) == (400, "invalid_request"), name
        assert server.post("/slots/0?action=save", {"filename": "a b.kv", "prompt": prompt})[0] == 200
        assert server.status()["health"]["restarts"] == 0
