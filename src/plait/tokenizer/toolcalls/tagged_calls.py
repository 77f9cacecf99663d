"""Calls whose arguments are written one by one between tags: Qwen3-Coder's <parameter=..>, GLM-4.5's <arg_key>. Each
function returns where the call ends, or None for what is no call. The tools' schemas say which values are texts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from plait.tokenizer.toolcalls import json_calls
from plait.tokenizer.toolcalls.parts import PartWriter
from plait.tokenizer.toolcalls.reader import Reader, Scan

Schemas = Mapping[str, Mapping[str, Any]]
"""The schema of each argument, by the name of its tool."""
NAME = re.compile(r"[\w.\-:/]*")


def function(reader: Reader, writer: PartWriter, at: int, schemas: Schemas) -> Scan[int | None]:
    """Behind `<function=`: name>, then an object or parameters, then </function>."""
    end = yield from reader.run(at, NAME)
    name = reader.cut(at, end)
    if not name or (yield from reader.char(end)) != ">":
        return None
    at = yield from reader.skip(end + 1)
    if (yield from reader.char(at)) == "{":
        writer.start(name)
        at = yield from json_calls.arguments(reader, writer, at)
    else:
        members = _Members(reader, writer, name, schemas.get(name, {}))
        found = yield from members.parameters(at)
        if found is None:
            return None
        at = found
    return (yield from behind(reader, at, "</function>"))


def keyed(reader: Reader, writer: PartWriter, at: int, schemas: Schemas) -> Scan[int | None]:
    """A name, then pairs of <arg_key> and <arg_value>, up to </tool_call>."""
    end = yield from reader.run(at, NAME)
    name = reader.cut(at, end)
    if not name or (schemas and name not in schemas):
        return None
    return (yield from _Members(reader, writer, name, schemas.get(name, {})).pairs(end))


def behind(reader: Reader, at: int, *words: str) -> Scan[int]:
    """Behind white space and one of `words`; `at` where none is there."""
    place = yield from reader.skip(at)
    word = yield from reader.literal(place, *words)
    return at if word is None else place + len(word)


class _Members:
    """Writes the arguments of one call as the members of an object."""

    def __init__(self, reader: Reader, writer: PartWriter, name: str, schema: Mapping[str, Any]) -> None:
        self._reader, self._writer, self._name, self._schema = reader, writer, name, schema
        self._count = 0

    def parameters(self, at: int) -> Scan[int | None]:
        """Up to </function>, which is not taken."""
        if (yield from self._reader.literal(at, "<parameter=", "</function>")) is None:
            return None
        self._writer.start(self._name)
        while (yield from self._reader.literal(at, "<parameter=", "</function>")) == "<parameter=":
            close = yield from self._reader.until(at, ">")
            if close is None:
                break
            key = self._reader.cut(at + len("<parameter="), close)
            at = yield from self._value(key, close + 1, "</parameter>", lines=True)
            at = yield from self._reader.skip(at)
        return self._end(at)

    def pairs(self, at: int) -> Scan[int | None]:
        """Up to </tool_call>, which is not taken."""
        reader = self._reader
        at = yield from reader.skip(at)
        if (yield from reader.literal(at, "<arg_key>", "</tool_call>")) is None:
            return None
        self._writer.start(self._name)
        while (yield from reader.literal(at, "<arg_key>")) is not None:
            close = yield from reader.until(at, "</arg_key>")
            if close is None:
                break
            key = reader.cut(at + len("<arg_key>"), close)
            opened = yield from behind(reader, close + len("</arg_key>"), "<arg_value>")
            at = yield from self._value(key, opened, "</arg_value>", lines=False)
            at = yield from reader.skip(at)
        return self._end(at)

    def _end(self, at: int) -> int:
        self._writer.arguments("}" if self._count else "{}")
        return at

    def _value(self, key: str, at: int, closer: str, lines: bool) -> Scan[int]:
        """Writes a member. With `lines` the value stands on lines of its own."""
        self._writer.arguments(f"{', ' if self._count else '{'}{json.dumps(key, ensure_ascii=False)}: ")
        self._count += 1
        key = key.strip()
        if lines and (yield from self._reader.char(at)) == "\n":
            at += 1
        if _kinds(self._schema.get(key)) == {"string"}:
            return (yield from self._string(at, closer, "\n" if lines else ""))
        end = yield from self._reader.until(at, closer)
        written = self._reader.cut(at, end)
        self._writer.arguments(_converted(written.removesuffix("\n") if lines else written, self._schema.get(key)))
        return self._reader.stop if end is None else end + len(closer)

    def _string(self, at: int, closer: str, before: str) -> Scan[int]:
        """A text, written as it comes; `before` in front of the closer is no part of it."""
        reader, keep = self._reader, len(closer) + len(before)
        self._writer.arguments('"')
        while True:
            there = reader.cut(at)
            place = there.find(closer)
            if place >= 0 or reader.ended:
                text = there if place < 0 else there[:place].removesuffix(before)
                self._writer.arguments(_escaped(text) + '"')
                return reader.stop if place < 0 else at + place + len(closer)
            sure = max(0, len(there) - keep)
            self._writer.arguments(_escaped(there[:sure]))
            at += sure
            reader.release(at)
            yield


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _kinds(schema: Any) -> set[str]:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return {kind} if isinstance(kind, str) else set(kind) if isinstance(kind, list) else set()


def _converted(written: str, schema: Any) -> str:
    """The value as JSON: what is JSON of a kind that the schema allows stays as it is, all else is a text."""
    try:
        value = json.loads(written)
    except (ValueError, RecursionError):
        return json.dumps(written, ensure_ascii=False)
    if schema is None or (isinstance(value, str) and "string" not in _kinds(schema)):
        return written.strip()
    return written.strip() if not isinstance(value, str) else json.dumps(written, ensure_ascii=False)
