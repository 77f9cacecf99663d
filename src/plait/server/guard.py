"""What every request passes first and last: its id, its key, its limits, its log line, and the answer to an error.

Raw ASGI, around the routes. Decides before a body is read, and gives back what a request holds when it is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plait.server.context import Seat
from plait.server.errors import OURS, MethodError, NotFoundError, answer_to, error_body, retry_after
from plait.server.keys import Gate, KeyRing
from plait.server.leaving import ClientGoneError

OPEN_PATHS = frozenset({"/", "/health", "/v1/health", "/favicon.ico"})
"""Answered without a key and without a seat."""
MOST_DISCARDED = 16 * 1024 * 1024
DISCARD_S = 5.0
"""Bytes of a refused body that are read, and how long that may take."""
_SOUND_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
Headers = Mapping[bytes, bytes]
_log = logging.getLogger("plait.server")


class Guard:
    """Around the whole application."""

    def __init__(self, app: ASGIApp, keys: KeyRing, gate: Gate, check_page: Callable[[Headers], None]) -> None:
        """`check_page` raises for a browser's page that is not to use the API."""
        self._app, self._keys, self._gate, self._check_page = app, keys, gate, check_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"] = self  # so that the router raises what it does not find
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        answer, body = _Answer(send, request_id), _Body(receive)
        began = time.monotonic()
        try:
            self._check_page(headers)
            await self._serve(scope, body, answer, headers.get(b"authorization", b""), request_id)
        except ClientGoneError:
            answer.status = 499  # nobody hears it; the log does
        except Exception as error:
            await self._fail(_ours(error, scope), scope, body, answer, request_id)
        _log.info(
            "%s %s %s %d %.0f ms", request_id, scope["method"], _printable(scope["path"]), answer.status,
            1000 * (time.monotonic() - began),
        )  # fmt: skip

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer, key: bytes, request_id: str) -> None:
        if scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS":
            await self._app(scope, receive, answer)
            return
        seat = Seat(self._gate, self._keys.tenant(key.decode("latin-1") or None), request_id)
        scope.setdefault("state", {})["seat"] = seat
        try:
            await self._app(scope, receive, answer)
        finally:
            seat.leave()

    async def _fail(self, error: Exception, scope: Scope, body: _Body, answer: _Answer, request_id: str) -> None:
        if answer_to(error) is OURS:
            _log.error("%s failed: %s: %s", request_id, type(error).__name__, error, exc_info=error)
        if not answer.status:
            await body.discard()
            await error_response(error)(scope, body, answer)


class _Body:
    """`receive` that knows whether the request's body has ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._ended = self._ended or not message.get("more_body", False)
        return message

    async def discard(self) -> None:
        """Read on without keeping anything, within bounds: whoever still writes does not see an answer."""
        size = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                while not self._ended and size < MOST_DISCARDED:
                    size += len((await self()).get("body", b""))


class _Answer:
    """`send` that adds the request's id, and remembers the status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._id = send, request_id.encode()
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message["headers"], (b"x-request-id", self._id)]}
        await self._send(message)


def error_response(error: Exception) -> Response:
    """The answer to an error that came before any other."""
    headers = {}
    if (seconds := retry_after(error)) is not None:
        headers["Retry-After"] = str(seconds)
    status = answer_to(error).status
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(error_body(error), status, headers, media_type="application/json")


def _ours(error: Exception, scope: Scope) -> Exception:
    """The router's complaints, in our words."""
    if not isinstance(error, HTTPException):
        return error
    where = f"{scope['method']} {_printable(scope['path'])}"
    if error.status_code == 405:
        return MethodError(f"{where}: the route has no such method")
    return NotFoundError(f"{where}: there is no such route")


def _printable(path: str) -> str:
    """A path came from outside: a line end in it would make a line of the log."""
    return path[:200].encode("unicode_escape").decode()


def _request_id(given: bytes) -> str:
    text = given.decode("latin-1")
    return text if _SOUND_ID.fullmatch(text) else f"req-{secrets.token_hex(12)}"
