"""Answers as JSON: encoded by msgspec, or from a template where one is sent for every token."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from plait.tokenizer.tokenizer import Tokenizer
from plait.types import Logprob

encode = msgspec.json.Encoder().encode


def reply(value: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(encode(value), status, media_type="application/json")


def spelled(tokenizer: Tokenizer, one: Logprob) -> dict[str, Any]:
    """A token with its log-probability: its text, and its bytes, which may be part of a character only."""
    text = tokenizer.decode([one.token], continuing=True)
    return {"token": text, "logprob": one.logprob, "bytes": list(tokenizer.token_bytes(one.token))}
