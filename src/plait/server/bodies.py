"""Bodies: from bytes to a typed record, or to an error that names the field. Knows JSON; no routes and no engine."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from plait.errors import RequestError
from plait.server.errors import FieldError

MAX_DEPTH = 64
MAX_VALUES = 1 << 20
MAX_CONTAINERS = 50_000
"""Commas, and brackets with colons: a number is decoded in 50 ns, an object or a field in half a microsecond."""
LARGE = 1 << 16
"""Bytes above which a body is decoded in a thread."""
_UNKNOWN = re.compile(r"Object contains unknown field `(.+?)`")
_PLACE = re.compile(r" - at `\$\.?(.*?)`$")
_INDEX = re.compile(r"\[(\d+)\]")
_MISSING = re.compile(r"Object missing required field `(.+?)`")
_MARKS = re.compile(rb'"[^"]*"?|[\[\]{},:]')
T = TypeVar("T")


def parse(body: bytes, kind: type[T]) -> T:
    """The record in a JSON body. Raises `FieldError`: what is wrong, and where."""
    if not body:
        raise FieldError("the body is empty; send a JSON object")
    check_shape(body)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _named(str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FieldError(f"the body is no JSON: {error}") from None


def convert(value: Any, kind: type[T], place: str) -> T:
    """The record in a value that is decoded already. `place` names it in messages."""
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as error:
        raise _named(str(error), place) from None


def check_shape(body: bytes, what: str = "the body") -> None:
    """Raises `FieldError` for brackets within more brackets, or more values, than anybody needs. In linear time, and
    for most bodies by counting alone."""
    brackets = body.count(b"[") + body.count(b"{")
    if brackets <= MAX_DEPTH and brackets + body.count(b":") <= MAX_CONTAINERS and body.count(b",") <= MAX_VALUES:
        return
    depth = values = containers = 0
    for match in _MARKS.finditer(_without_escapes(body)):
        mark = match[0]
        if mark == b",":
            values += 1
        elif mark in b"]}":
            depth -= 1
        elif mark in b"[{:":
            containers += 1
            depth += mark != b":"
        if depth > MAX_DEPTH:
            raise FieldError(f"{what} is nested deeper than {MAX_DEPTH} levels")
        if values > MAX_VALUES or containers > MAX_CONTAINERS:
            raise FieldError(f"{what} has more than {MAX_VALUES} values, or {MAX_CONTAINERS} fields, lists and objects")


def _without_escapes(body: bytes) -> bytes:
    """JSON in which each quotation mark begins or ends a string."""
    return body.replace(b"\\\\", b"").replace(b'\\"', b"")


def refuse(value: Any, name: str, why: str) -> None:
    """Raises `FieldError` for a field that is known, not supported, and set to anything."""
    if value is not None:
        raise FieldError(f"'{name}' is not supported: {why}", name)


def _named(text: str, place: str = "") -> FieldError:
    where = _PLACE.search(text)
    inner = _INDEX.sub(r".\1", where[1]) if where else ""
    path = ".".join(part for part in (place, inner) if part)
    text = text[: where.start()] if where else text
    if unknown := _UNKNOWN.match(text):
        name = f"{path}.{unknown[1]}" if path else unknown[1]
        return FieldError(f"the field '{name}' is not supported", name)
    if missing := _MISSING.match(text):
        name = f"{path}.{missing[1]}" if path else missing[1]
        return FieldError(f"the field '{name}' is missing", name)
    said = text[0].lower() + text[1:]
    return FieldError(f"'{path}': {said}" if path else f"the body: {said}", path or None)


def in_field(name: str, error: RequestError) -> FieldError:
    """The same complaint, with the field that it is about."""
    return FieldError(str(error), name)
