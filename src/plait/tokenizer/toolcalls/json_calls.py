"""Calls written as JSON objects. Each function returns where the call ends, or None for what is no call; a call that
was begun ends where it stops being sound, and what follows is text."""

from __future__ import annotations

import json
from dataclasses import dataclass

from plait.tokenizer.toolcalls.parts import PartWriter
from plait.tokenizer.toolcalls.reader import Reader, Scan

NAMES = ("name", "tool_name")
ARGUMENTS = ("arguments", "parameters")
IDS = ("id", "tool_call_id")


def calls(reader: Reader, writer: PartWriter, at: int) -> Scan[int | None]:
    """One object, or an array of them. Between brands of markers an object without arguments is a call, too."""
    at = yield from reader.skip(at)
    first = yield from reader.char(at)
    if first == "{":
        return (yield from one(reader, writer, at))
    return (yield from several(reader, writer, at)) if first == "[" else None


def several(reader: Reader, writer: PartWriter, at: int) -> Scan[int | None]:
    """An array of calls."""
    begun = writer.calls
    at = yield from reader.skip(at + 1)
    while (end := (yield from one(reader, writer, at))) is not None:
        follows = yield from reader.skip(end)
        match (yield from reader.char(follows)):
            case "]":
                return follows + 1
            case ",":
                at = yield from reader.skip(follows + 1)
                if (yield from reader.char(at)) != "{":
                    return end
            case _:
                return end
    return at if writer.calls > begun else None


def whole(reader: Reader, writer: PartWriter, at: int) -> Scan[int | None]:
    """An object that is the answer: a call only with arguments. Several may stand in a row, with ; between them."""
    if (yield from reader.char(at)) == ";" and writer.calls:
        at = yield from reader.skip(at + 1)
    if (yield from reader.char(at)) != "{":
        return None
    return (yield from one(reader, writer, at, needs_arguments=True))


@dataclass(slots=True)
class _Call:
    """What is known of a call. `early` are arguments that came before the name."""

    name: str | None = None
    id: str | None = None
    early: str | None = None
    started: bool = False


def one(reader: Reader, writer: PartWriter, at: int, needs_arguments: bool = False) -> Scan[int | None]:
    """One object: members in any order, arguments written as they come once the name is known."""
    call = _Call()
    if (yield from reader.char(at)) != "{":
        return None
    at = yield from reader.skip(at + 1)
    while True:
        end = yield from _member(reader, writer, call, at)
        if end is None:
            return at if call.started else None
        at = yield from reader.skip(end)
        match (yield from reader.char(at)):
            case ",":
                at = yield from reader.skip(at + 1)
            case "}":
                return at + 1 if _ended(writer, call, needs_arguments) else None
            case _:
                return at if call.started else None


def _ended(writer: PartWriter, call: _Call, needs_arguments: bool) -> bool:
    if call.started:
        return True
    if call.name is None or (call.early is None and needs_arguments):
        return False
    writer.start(call.name, call.id)
    writer.arguments("{}" if call.early is None else call.early)
    return True


def _member(reader: Reader, writer: PartWriter, call: _Call, at: int) -> Scan[int | None]:
    key = yield from reader.string(at)
    if key is None:
        return None
    at = yield from reader.skip(key[1])
    if (yield from reader.char(at)) != ":":
        return None
    at = yield from reader.skip(at + 1)
    if key[0] in ARGUMENTS and not call.started and call.name is not None:
        if not (yield from reader.char(at)):
            return None
        writer.start(call.name, call.id)
        call.started = True
        return (yield from arguments(reader, writer, at))
    if key[0] not in (*NAMES, *IDS, *ARGUMENTS, "type") and not call.started:
        return None
    end = yield from value_end(reader, at)
    if end is None:
        return None
    _note(call, key[0], reader.cut(at, end))
    return end


def _note(call: _Call, key: str, written: str) -> None:
    try:
        value = json.loads(written, strict=False)
    except (ValueError, RecursionError):
        value = None
    if key in NAMES and isinstance(value, str) and call.name is None:
        call.name = value
    elif key in IDS and isinstance(value, (str, int)):
        call.id = str(value)
    elif key in ARGUMENTS and not call.started:
        call.early = plain(written)


def plain(written: str) -> str:
    """Arguments as the API gives them: a string that holds them is opened, null is no arguments."""
    if written[:1] == '"' or written == "null":
        try:
            value = json.loads(written, strict=False)
        except ValueError:
            return written
        return value if isinstance(value, str) else "{}"
    return written


def arguments(reader: Reader, writer: PartWriter, at: int) -> Scan[int]:
    """A value, written as it comes; its end, or that of the text."""
    if (yield from reader.char(at)) not in ("{", "["):
        end = yield from value_end(reader, at)
        writer.arguments(plain(reader.cut(at, end)))
        return reader.stop if end is None else end
    value = JsonValue()
    while True:
        count = value.take(reader.cut(at))
        writer.arguments(reader.cut(at, at + count))
        at += count
        reader.release(at)
        if value.ended or reader.ended:
            return at
        yield


def value_end(reader: Reader, at: int) -> Scan[int | None]:
    """Where a value ends; None if the text ends first."""
    value = JsonValue()
    while True:
        at += value.take(reader.cut(at))
        if value.ended:
            return at
        if reader.ended:
            return None
        yield


class JsonValue:
    """The end of a JSON value in a text that arrives in parts."""

    def __init__(self) -> None:
        self.ended = False
        self._depth = 0
        self._in_string = self._escaped = False

    def take(self, text: str) -> int:
        """How many characters of `text` belong to the value."""
        for at, char in enumerate(text):
            if self._in_string:
                self._string(char)
                if not self._in_string and self._depth == 0:
                    return self._end(at + 1)
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return self._end(at + (self._depth == 0))
            elif self._depth == 0 and (char == "," or char.isspace()):
                return self._end(at)
        return len(text)

    def _string(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False

    def _end(self, count: int) -> int:
        self.ended = True
        return count
