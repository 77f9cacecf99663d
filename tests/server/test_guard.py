"""Keys, limits and sizes, on a server that has them."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.servers import RunningServer, start_server

BODY = {"prompt": "Once upon a time", "max_tokens": 200}
FIRST, SECOND = {"Authorization": "Bearer first-key"}, {"Authorization": "Bearer second-key"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    Path(keys).write_text("# ours\nsecond-key\n\n")
    limits = ["--key-requests", "2", "--max-body", "1", "--key-rpm", "60"]
    with start_server("--api-key", "first-key", "--api-key-file", str(keys), *limits) as running:
        yield running


@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer nope"}, {"Authorization": "Basic first-key"}])
def test_without_a_known_key_nothing_is_served(guarded: RunningServer, given: dict[str, str]) -> None:
    status, headers, answer = guarded.post("/v1/completions", BODY, given)
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    assert answer["error"]["code"] == "invalid_api_key"
    assert "first" not in answer["error"]["message"]


def test_health_and_the_status_page_need_none(guarded: RunningServer) -> None:
    assert guarded.get("/health")[0] == 200
    assert guarded.get("/")[0] == 200
    assert guarded.get("/status.json")[0] == 401
    assert guarded.get("/metrics")[0] == 401


def test_both_keys_are_served(guarded: RunningServer) -> None:
    for key in (FIRST, SECOND):
        assert guarded.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, key)[0] == 200


@pytest.mark.parametrize("asked", ["body", "header"])
def test_a_key_comes_before_others_only_where_that_is_allowed(guarded: RunningServer, asked: str) -> None:
    one = {"prompt": "a", "max_tokens": 1}
    for name, status in (("high", 400), ("normal", 200), ("background", 200)):
        body = {**one, "plait": {"priority": name}} if asked == "body" else one
        headers = SECOND if asked == "body" else {**SECOND, "X-Plait-Priority": name}
        found, _, answer = guarded.post("/v1/completions", body, headers)
        assert found == status
        assert status == 200 or answer["error"]["param"] == "plait.priority"


def test_the_operator_may_allow_it() -> None:
    asked = {"prompt": "a", "max_tokens": 1, "plait": {"priority": "high"}}
    with start_server("--api-key", "second-key", "--key-priority", "high") as running:
        assert running.post("/v1/completions", asked, SECOND)[0] == 200


def test_a_body_that_is_too_large_is_refused(guarded: RunningServer) -> None:
    status, _, answer = guarded.post("/v1/completions", {"prompt": "x" * (1 << 21)}, SECOND)
    assert (status, answer["error"]["code"]) == (413, "body_too_large")


def test_one_key_at_its_limit_does_not_touch_the_other(guarded: RunningServer) -> None:
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: guarded.post("/v1/completions", BODY, FIRST), range(6)))
        statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 429}
    assert all(int(headers["retry-after"]) >= 1 for status, headers, _ in answers if status == 429)
    assert guarded.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, SECOND)[0] == 200


def test_a_key_may_send_only_so_many_a_minute(guarded: RunningServer) -> None:
    statuses = [guarded.post("/tokenize", {"content": "a"}, SECOND)[0] for _ in range(70)]
    assert statuses[0] == 200
    assert statuses[-1] == 429
