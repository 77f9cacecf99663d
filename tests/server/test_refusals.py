"""Every kind of bad request: its status, the field it names, and that it leaves no trace."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.servers import RunningServer

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "Hi"}]
DEEP: Any = "x"
for _ in range(100):
    DEEP = [DEEP]

TABLE: list[tuple[str, Any, int, str | None, str]] = [
    # route, body, status, param, code
    (COMPLETIONS, b"", 400, None, "invalid_request"),
    (COMPLETIONS, b"{", 400, None, "invalid_request"),
    (COMPLETIONS, b"\xff\xfe", 400, None, "invalid_request"),
    (COMPLETIONS, [], 400, None, "invalid_request"),
    (COMPLETIONS, {}, 400, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": []}, 400, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": 5}, 400, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": [1, "a"]}, 400, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": [999999]}, 400, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": [-1]}, 400, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "nonsense": 1}, 400, "nonsense", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "suffix": "b"}, 400, "suffix", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "best_of": 4}, 400, "best_of", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "temperature": -1}, 400, "temperature", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "temperature": "hot"}, 400, "temperature", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "repeat_penalty": 1e-228}, 400, "repeat_penalty", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": {"5": 1e39}}, 400, "logit_bias", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "top_p": 2}, 400, "top_p", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "n": 0}, 400, "n", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "n": 100000}, 400, "n", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": -5}, 400, "max_tokens", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 2**31}, 400, "max_tokens", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 2**64}, 400, "max_tokens", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 10**400}, 400, "max_tokens", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "top_k": 2**70}, 400, "top_k", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "repeat_last_n": 2**70}, 400, "repeat_last_n", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "dry_penalty_last_n": 2**70}, 400, "dry_penalty_last_n", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "dry_allowed_length": 2**70}, 400, "dry_allowed_length", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "seed": 2**64}, 400, "seed", "invalid_request"),
    (
        COMPLETIONS,
        {"prompt": "a", "plait": {"salt": "s", "salt_from": 2**70}},
        400,
        "plait.salt_from",
        "invalid_request",
    ),
    (COMPLETIONS, {"prompt": "a", "plait": {"pin": 1e300}}, 400, "plait.pin", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "stop": [""]}, 400, "stop", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "stop": ["x"] * 100}, 400, "stop", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": {"x": 1}}, 400, "logit_bias", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": {"1": "y"}}, 400, "logit_bias", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": {"99999999": 1}}, 400, "logit_bias", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "plait": {"priority": "now"}}, 400, "plait.priority", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "plait": {"what": 1}}, 400, "plait.what", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "samplers": ["magic"]}, 400, "samplers", "invalid_request"),
    (COMPLETIONS, {"prompt": "word " * 9000}, 400, None, "context_length_exceeded"),
    (COMPLETIONS, {"prompt": "a", "grammar": "root ::= ("}, 400, "grammar", "invalid_request"),
    (CHAT, {"messages": []}, 400, "messages", "invalid_request"),
    (CHAT, {"messages": [{"role": "king", "content": "Hi"}]}, 400, "messages.0.role", "invalid_request"),
    (CHAT, {"messages": [{"role": "user"}]}, 400, "messages.0.content", "invalid_request"),
    (CHAT, {"messages": DEEP}, 400, None, "invalid_request"),
    (CHAT, {"messages": USER, "top_logprobs": 2}, 400, "top_logprobs", "invalid_request"),
    (CHAT, {"messages": USER, "logprobs": True, "top_logprobs": 101}, 400, "top_logprobs", "invalid_request"),
    (CHAT, {"messages": USER, "max_tokens": -5}, 400, "max_tokens", "invalid_request"),
    (CHAT, {"messages": USER, "max_completion_tokens": -5}, 400, "max_completion_tokens", "invalid_request"),
    (CHAT, {"messages": USER, "store": True}, 400, "store", "invalid_request"),
    (CHAT, {"messages": USER, "tool_choice": "required"}, 400, "tool_choice", "invalid_request"),
    (CHAT, {"messages": USER, "tools": [{"type": "magic"}]}, 400, "tools.0", "invalid_request"),
    (CHAT, {"messages": USER, "response_format": {"type": "xml"}}, 400, "response_format.type", "invalid_request"),
    (
        CHAT,
        {"messages": USER, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "bogus"}}}},
        400,
        "response_format.json_schema.schema",
        "invalid_request",
    ),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "messages.0.content.0",
        "invalid_request",
    ),
    ("/v1/embeddings", {"input": []}, 400, "input", "invalid_request"),
    ("/v1/embeddings", {"input": "a", "dimensions": 3}, 400, "dimensions", "invalid_request"),
    ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, 400, "encoding_format", "invalid_request"),
    ("/completion", {"prompt": "a", "n_keep": 3}, 400, "n_keep", "invalid_request"),
    ("/completion", {"prompt": "a", "n_predict": -5}, 400, "n_predict", "invalid_request"),
    ("/completion", {"prompt": "a", "n_probs": 101}, 400, "n_probs", "invalid_request"),
    ("/completion", {"prompt": "a", "n": 3}, 400, "n", "invalid_request"),
    ("/detokenize", {"tokens": [10**9]}, 400, "tokens", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": {"1" * 5000: 1}}, 400, "logit_bias", "invalid_request"),
    (COMPLETIONS, b'{"prompt":"a","logit_bias":{"5":1%s}}' % (b"0" * 400), 400, "logit_bias", "invalid_request"),
    (COMPLETIONS, b'{"prompt":"a","logit_bias":{"5":1%s}}' % (b"0" * 300), 400, "logit_bias", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": {"5": 10**12}}, 400, "logit_bias", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": [[None, 1]]}, 400, "logit_bias", "invalid_request"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": [[True, 1]]}, 400, "logit_bias", "invalid_request"),
    (f"/slots/{'1' * 5000}?action=erase", {"prompt": "a"}, 400, "id", "invalid_request"),
    ("/slots/-1?action=erase", {"prompt": "a"}, 400, "id", "invalid_request"),
    ("/slots/0?action=dance", {}, 400, "action", "invalid_request"),
    ("/slots/0?action=save", {"filename": "x", "prompt": "a"}, 501, None, "not_supported"),
    ("/nowhere", {}, 404, None, "not_found"),
    ("/v1/models", {}, 405, None, "method_not_allowed"),
]


@pytest.mark.parametrize(("route", "body", "status", "param", "code"), TABLE)
def test_a_bad_request_gets_its_answer(
    server: RunningServer, route: str, body: Any, status: int, param: str | None, code: str
) -> None:
    found, headers, answer = server.post(route, body)
    error = answer["error"]
    assert (found, error["param"], error["code"]) == (status, param, code), error["message"]
    assert error["message"]
    assert "Traceback" not in error["message"]
    assert headers["content-type"] == "application/json"


def test_none_of_them_leaves_a_trace(server: RunningServer) -> None:
    server.post(COMPLETIONS, {"prompt": "a", "max_tokens": 1})  # pages are counted from the first step on
    server.wait_idle()
    before = server.pages()
    for route, body, status, _, _ in TABLE:
        assert server.post(route, body)[0] == status
    server.wait_idle()
    after = server.pages()
    assert after["used"] == 0
    assert after["free"] + after["cached"] == before["free"] + before["cached"]
    assert server.status()["open_requests"] == 1  # the one that asks
    assert not [line for line in server.log if "Traceback" in line]


def test_an_error_before_the_first_token_of_a_stream_has_its_status(server: RunningServer) -> None:
    body = json.dumps({"prompt": "word " * 9000, "stream": True}).encode()
    status, _, raw = server.send("POST", COMPLETIONS, body)
    assert status == 400
    assert json.loads(raw)["error"]["code"] == "context_length_exceeded"
