"""Grammars that are hard on whoever compiles or follows them: the server and the engine live, the client is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.servers import RunningServer

RING = "root ::= r0\n" + "\n".join(f'r{i} ::= "a" r{(i + 1) % 5000}?' for i in range(5000))
CHAIN = "root ::= r0\n" + "\n".join(f'r{i} ::= "a" r{i + 1}' for i in range(5000)) + '\nr5000 ::= "b"'
DOUBLING = "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(40)) + '\nr40 ::= "b"'
MANY = {"type": "object", "properties": {f"p{i}": {"type": "string", "pattern": f"^a{i}+$"} for i in range(800)}}
SHORT = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}


@pytest.mark.parametrize("grammar", [RING, CHAIN])
def test_thousands_of_rules_in_a_row_are_followed(server: RunningServer, grammar: str) -> None:
    engine = server.engine()
    status, _, found = server.post("/v1/completions", {**SHORT, "grammar": grammar})
    assert status == 200
    assert set(found["choices"][0]["text"]) == {"a"}
    assert server.engine() == engine


def test_a_grammar_that_doubles_with_each_rule_is_refused(server: RunningServer) -> None:
    status, _, answer = server.post("/v1/completions", {**SHORT, "grammar": DOUBLING})
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "grammar", "invalid_request")
    assert server.get("/health")[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_one_that_grows_too_large_in_the_answer_is_the_clients_fault(server: RunningServer, stream: bool) -> None:
    """It compiles; what may follow the first brace is more than the parser's bound."""
    body: dict[str, Any] = {**SHORT, "max_tokens": 40, "json_schema": MANY, "stream": stream}
    status, _, raw = server.send("POST", "/v1/completions", json.dumps(body).encode())
    if stream and status == 200:
        events = [line.removeprefix("data: ") for line in raw.decode().split("\n\n") if line]
        error = json.loads(events[-1])["error"]
    else:
        assert status == 400
        error = json.loads(raw)["error"]
    assert (error["code"], error["type"]) == ("grammar_failed", "invalid_request_error")
    assert "\n" not in error["message"]
    assert server.post("/v1/completions", SHORT)[0] == 200
    assert not [line for line in server.log if "Traceback" in line]
