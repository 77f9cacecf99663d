"""Bodies: from bytes to a typed record, or to an error that names the field. Knows JSON; no routes and no engine."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from plait.errors import RequestError
from plait.server.errors import FieldError

MAX_DEPTH = 64
_UNKNOWN = re.compile(r"Object contains unknown field `(.+?)`")
_PLACE = re.compile(r" - at `\$\.?(.*?)`$")
_INDEX = re.compile(r"\[(\d+)\]")
_MISSING = re.compile(r"Object missing required field `(.+?)`")
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')
T = TypeVar("T")


def parse(body: bytes, kind: type[T]) -> T:
    """The record in a JSON body. Raises `FieldError`: what is wrong, and where."""
    if not body:
        raise FieldError("the body is empty; send a JSON object")
    check_depth(body)
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


def check_depth(body: bytes, most: int = MAX_DEPTH) -> None:
    """Raises `FieldError` for brackets within more brackets than anybody needs."""
    if body.count(b"[") + body.count(b"{") <= most:
        return
    depth = 0
    for byte in re.sub(rb"[^\[\]{}]", b"", _STRINGS.sub(b"", body)):
        depth += 1 if byte in b"[{" else -1
        if depth > most:
            raise FieldError(f"the body is nested deeper than {most} levels")


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
