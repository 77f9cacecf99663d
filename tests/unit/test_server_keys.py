"""Keys and limits, with a clock that is passed in."""

from __future__ import annotations

import time

import pytest

from plait.errors import OptionError
from plait.server.bodies import check_shape, parse
from plait.server.errors import TABLE, AuthenticationError, FieldError, OverloadedError, RateLimitError, error_body
from plait.server.keys import Gate, KeyLimits, KeyRing
from plait.server.openai.bodies import ChatBody
from plait.server.options import ServerOptions


def test_every_key_is_a_tenant_of_its_own() -> None:
    ring = KeyRing(["one", "two"])
    assert {ring.tenant("Bearer one"), ring.tenant("bearer two")} == {"key-1", "key-2"}
    for wrong in (None, "", "Bearer", "Bearer three", "Basic one", "one"):
        with pytest.raises(AuthenticationError):
            ring.tenant(wrong)
    assert KeyRing([]).tenant(None) == ""
    with pytest.raises(OptionError):
        KeyRing(["bad\nkey"])


def test_what_was_let_in_is_given_back() -> None:
    gate = Gate(KeyLimits(requests=2, tokens=100), most_open=3)
    gate.enter("a", 0.0)
    gate.enter("a", 0.0)
    with pytest.raises(RateLimitError):
        gate.enter("a", 0.0)
    gate.enter("b", 0.0)
    with pytest.raises(OverloadedError):
        gate.enter("c", 0.0)
    gate.size("a", 90, 0.0)
    with pytest.raises(RateLimitError):
        gate.size("a", 20, 0.0)
    gate.leave("a", 90, 50, 0.0)
    gate.size("a", 20, 0.0)
    gate.leave("a", 20, 20, 0.0)
    gate.leave("b", 0, 0, 0.0)
    assert gate.open == 0


def test_a_minutes_worth_comes_back_evenly() -> None:
    gate = Gate(KeyLimits(requests_per_minute=2, tokens_per_minute=60))
    for _ in range(2):
        gate.enter("a", 0.0)
        gate.leave("a", 0, 0, 0.0)
    with pytest.raises(RateLimitError) as caught:
        gate.enter("a", 0.0)
    assert caught.value.retry_after == pytest.approx(30.0)
    gate.enter("a", 30.0)
    gate.size("a", 60, 30.0)
    gate.leave("a", 60, 60, 30.0)
    with pytest.raises(RateLimitError):
        gate.enter("a", 60.0 - 1e-6 + 0.0)
    gate.enter("a", 95.0)


def test_tokens_of_a_minute_are_taken_at_the_door_and_given_back() -> None:
    gate = Gate(KeyLimits(tokens_per_minute=100))
    for _ in range(3):
        gate.enter("a", 0.0)
    gate.size("a", 60, 0.0)
    with pytest.raises(RateLimitError):
        gate.size("a", 60, 0.0)
    gate.leave("a", 60, 10, 0.0)
    gate.size("a", 60, 0.0)
    with pytest.raises(RateLimitError):
        gate.size("a", 60, 0.0)
    gate.leave("a", 60, 60, 0.0)
    gate.leave("a", 0, 0, 0.0)
    gate.enter("a", 0.0)


@pytest.mark.parametrize("limits", [KeyLimits(tokens_per_minute=10), KeyLimits(tokens=10)])
def test_one_request_that_would_never_fit_is_refused_by_name(limits: KeyLimits) -> None:
    gate = Gate(limits)
    gate.enter("a", 0.0)
    with pytest.raises(FieldError, match="may come to 11 tokens") as caught:
        gate.size("a", 11, 0.0)
    assert caught.value.param == "max_tokens"
    gate.size("a", 6, 0.0)
    with pytest.raises(FieldError):
        gate.size("a", 5, 0.0, had=6)


def test_brackets_in_strings_are_no_depth() -> None:
    for inside in (b"[" * 500, b'\\"' + b"[" * 500, b"\\\\", b'\\\\\\"' + b"{" * 500):
        check_shape(b'{"a": "' + inside + b'", "b": "' + b"[" * 500 + b'"}')
    with pytest.raises(FieldError, match="nested"):
        check_shape(b"[" * 500)
    with pytest.raises(FieldError, match="nested"):
        check_shape(b'{"a": "x\\\\", "b": ' + b"[" * 500)


def test_the_check_takes_linear_time() -> None:
    """A string that never ends, after enough brackets: one that tries each quotation mark anew takes minutes."""
    began = time.perf_counter()
    with pytest.raises(FieldError):
        check_shape(b"[" * 65 + b'"' + b'\\"' * 500_000)
    check_shape(b"[" * 60 + b'"' + b'\\"[' * 500_000)
    assert time.perf_counter() - began < 2.0


@pytest.mark.parametrize("part", [b"[],", b'{"":1},', b'"",', b"5,"])
def test_a_body_may_not_have_too_many_values(part: bytes) -> None:
    body = b'{"prompt":[' + part * (1 << 20) + part[:-1] + b"]}"
    with pytest.raises(FieldError, match="more than"):
        check_shape(body + b",")
    check_shape(b'{"prompt":"' + body.replace(b'"', b"'") + b'"}')


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"messages":' + b"[" * 70 + b"]" * 70 + b"}", b"nan", b'"x"'])
def test_no_body_breaks_the_parser(body: bytes) -> None:
    with pytest.raises(FieldError):
        parse(body, ChatBody)


def test_an_error_of_ours_says_nothing_of_the_inside() -> None:
    assert b"secret" not in error_body(ValueError("secret"))
    assert {answer.status for answer in TABLE.values()} <= {400, 401, 403, 404, 405, 413, 429, 501, 503, 504}


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": -1},
        {"port": 70000},
        {"host": ""},
        {"ssl_cert_file": "x"},
        {"timeout": "long"},
        {"key_priority": "first"},
    ],
)
def test_options_that_cannot_be_used(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        ServerOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "public"), [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True)]
)
def test_who_can_connect(host: str, public: bool) -> None:
    assert ServerOptions(host=host).is_public is public
