"""The one table from an error's code to a status and a type, and the bodies made of it: JSON and the stream's event."""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from plait.errors import PlaitError, QueueFullError, RequestError


class FieldError(RequestError):
    """A field of a body, a query or a header that cannot be used. `param` names it."""

    def __init__(self, message: str, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class AuthenticationError(PlaitError):
    """No key, or one that is not known."""

    code = "invalid_api_key"


class ForeignPageError(PlaitError):
    """A browser sent it for a page that is not ours."""

    code = "foreign_page"


class NotFoundError(PlaitError):
    """No such route, model or slot."""

    code = "not_found"


class MethodError(PlaitError):
    """The route has no such method."""

    code = "method_not_allowed"


class TooLargeError(PlaitError):
    """The body is longer than the server takes."""

    code = "body_too_large"


class NotSupportedError(PlaitError):
    """What was asked for cannot be had from this model, or from this server."""

    code = "not_supported"


class RateLimitError(PlaitError):
    """A key is at one of its limits. `retry_after` is in seconds."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class OverloadedError(RateLimitError):
    """The server as a whole is at its limit."""

    code = "overloaded"


class Answer(NamedTuple):
    """How an error looks from outside."""

    status: int
    type: str


TABLE: dict[str, Answer] = {
    "invalid_request": Answer(400, "invalid_request_error"),
    "prompt_too_long": Answer(400, "invalid_request_error"),
    "grammar_failed": Answer(400, "invalid_request_error"),
    "chat_template": Answer(400, "invalid_request_error"),
    "tokenizer": Answer(400, "invalid_request_error"),
    "bad_kv_file": Answer(400, "invalid_request_error"),
    "invalid_api_key": Answer(401, "authentication_error"),
    "foreign_page": Answer(403, "permission_error"),
    "not_found": Answer(404, "not_found_error"),
    "method_not_allowed": Answer(405, "invalid_request_error"),
    "body_too_large": Answer(413, "invalid_request_error"),
    "rate_limit_exceeded": Answer(429, "rate_limit_error"),
    "not_supported": Answer(501, "not_supported_error"),
    "overloaded": Answer(503, "overloaded_error"),
    "out_of_pages": Answer(503, "overloaded_error"),
    "queue_full": Answer(503, "overloaded_error"),
    "queue_timeout": Answer(503, "overloaded_error"),
    "engine_down": Answer(503, "unavailable_error"),
    "deadline_exceeded": Answer(504, "timeout_error"),
}
"""What is not here is our own fault: 500."""

OURS = Answer(500, "server_error")
RETRY_S = {"out_of_pages": 1.0, "queue_timeout": 1.0, "engine_down": 2.0}
PUBLIC_CODE = {"prompt_too_long": "context_length_exceeded"}
"""Where OpenAI has a name of its own."""


def answer_to(error: Exception) -> Answer:
    """Status and type of an error."""
    return TABLE.get(error.code, OURS) if isinstance(error, PlaitError) else OURS


def error_body(error: Exception) -> bytes:
    """The JSON body, as OpenAI's: {"error": {message, type, param, code}}. Of an error that is none of Plait's, no word
    gets out."""
    ours = isinstance(error, PlaitError)
    code = error.code if isinstance(error, PlaitError) else "internal"
    fields = {
        "message": str(error) if ours else "the server failed on this request; its log says why",
        "type": answer_to(error).type,
        "param": getattr(error, "param", None),
        "code": PUBLIC_CODE.get(code, code),
    }
    return msgspec.json.encode({"error": fields})


def retry_after(error: Exception) -> int | None:
    """Seconds for the Retry-After header; None where trying again is no use."""
    if isinstance(error, (RateLimitError, QueueFullError)):
        return max(1, math.ceil(error.retry_after))
    seconds = RETRY_S.get(error.code) if isinstance(error, PlaitError) else None
    return None if seconds is None else math.ceil(seconds)
