"""Saving, restoring and erasing what the cache holds of a prompt, over HTTP and over a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.servers import RunningServer, start_server

PROMPT = "Once upon a time there was a small boat that wanted to see the wide and windy sea and the moon. " * 2
FIRST, SECOND = {"Authorization": "Bearer first-key"}, {"Authorization": "Bearer second-key"}
KEYS = ("--api-key", "first-key", "--api-key", "second-key")


def cached(server: RunningServer, key: dict[str, str], prompt: str = PROMPT) -> int:
    """Tokens of the prompt that were found in the cache."""
    status, _, answer = server.post("/completion", {"prompt": prompt, "n_predict": 1}, key)
    assert status == 200, answer
    return int(answer["tokens_cached"])


def act(
    server: RunningServer, action: str, key: dict[str, str], given: dict[str, object] | None = None
) -> tuple[int, dict[str, int]]:
    body = {"filename": "boat.kv", **({"prompt": PROMPT} if action != "restore" else {}), **(given or {})}
    status, _, answer = server.post(f"/slots/0?action={action}", body, key)
    return status, answer


@pytest.mark.parametrize(("args", "key"), [((), {}), (KEYS, FIRST)])
def test_what_was_saved_is_found_after_a_restart(tmp_path: Path, args: tuple[str, ...], key: dict[str, str]) -> None:
    folder = ("--slot-save-path", str(tmp_path))
    with start_server(*args, *folder) as running:
        assert cached(running, key) == 0
        status, saved = act(running, "save", key)
        assert (status, saved["n_saved"] > 16) == (200, True)
    with start_server(*args, *folder) as running:
        status, restored = act(running, "restore", key)
        assert (status, restored["n_restored"]) == (200, saved["n_saved"])
        assert cached(running, key) >= saved["n_saved"] - 1
        status, erased = act(running, "erase", key)
        assert (status, erased["n_erased"] >= saved["n_saved"]) == (200, True)
        assert cached(running, key) == 0


def test_a_key_has_slots_of_its_own(tmp_path: Path) -> None:
    with start_server(*KEYS, "--slot-save-path", str(tmp_path)) as running:
        cached(running, FIRST)
        assert act(running, "save", FIRST)[0] == 200
        assert act(running, "save", SECOND)[0] == 400  # nothing is cached of it under this key
        assert act(running, "restore", SECOND)[0] == 404
        assert act(running, "erase", SECOND)[1]["n_erased"] == 0
        assert cached(running, SECOND) == 0
        assert cached(running, FIRST) > 16


def test_a_salt_of_the_body_is_that_of_requests(tmp_path: Path) -> None:
    salt = {"plait": {"salt": "mine"}}
    with start_server("--slot-save-path", str(tmp_path)) as running:
        running.post("/completion", {"prompt": PROMPT, "n_predict": 1, **salt})
        assert act(running, "save", {})[0] == 400
        assert act(running, "save", {}, salt)[0] == 200


@pytest.mark.parametrize("name", ["a\x00b", "a\nb", "../a", ".a", "", "x" * 5000])
def test_names_that_are_no_names(tmp_path: Path, name: str) -> None:
    with start_server("--slot-save-path", str(tmp_path)) as running:
        status, answer = act(running, "restore", {}, {"filename": name})
        assert (status, answer["error"]["param"]) == (400, "filename")  # type: ignore[index]
        assert act(running, "save", {}, {"filename": name})[0] == 400
        assert running.status()["health"]["restarts"] == 0
