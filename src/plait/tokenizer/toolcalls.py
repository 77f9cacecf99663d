"""Tool calls and reasoning, found in the text of an answer as it grows.

Which parts come out does not depend on how the text was divided. What is no sound call comes out as text. Knows text
only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias


class ToolFormat(StrEnum):
    """How a family of models writes its calls."""

    HERMES = "hermes"  # <tool_call>{"name": ..., "arguments": ...}</tool_call>
    LLAMA = "llama"  # {"name": ..., "parameters": ...} is the answer, perhaps after <|python_tag|>
    MISTRAL = "mistral"  # [TOOL_CALLS][{"name": ..., "arguments": ...}, ...]
    JSON = "json"  # {"name": ..., "arguments": ...} is the answer


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """The next piece of a call's arguments, which are JSON."""

    index: int
    text: str


Part: TypeAlias = Text | Reasoning | ToolCallStart | ToolCallArguments

THINK, THINK_END = "<think>", "</think>"
OPENERS = {
    ToolFormat.HERMES: "<tool_call>",
    ToolFormat.LLAMA: "<|python_tag|>",
    ToolFormat.MISTRAL: "[TOOL_CALLS]",
}
HERMES_END = "</tool_call>"
WHOLE = (ToolFormat.LLAMA, ToolFormat.JSON)
"""Formats in which an answer that begins with a brace is a call."""
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SPACE = re.compile(r"\s*")
_KEYS = ('"arguments"', '"parameters"')


def format_of(template: str | None) -> ToolFormat:
    """The format that a chat template speaks of."""
    text = template or ""
    if "<tool_call>" in text:
        return ToolFormat.HERMES
    if "[TOOL_CALLS]" in text:
        return ToolFormat.MISTRAL
    if "<|python_tag|>" in text or '"parameters":' in text:
        return ToolFormat.LLAMA
    return ToolFormat.JSON


def tool_schema(style: ToolFormat, tools: Sequence[dict[str, Any]], name: str | None) -> str:
    """A JSON schema of one call: of the tool `name`, or of any."""
    key = "parameters" if style is ToolFormat.LLAMA else "arguments"
    calls = []
    for tool in tools:
        function = tool["function"]
        if name in (None, function["name"]):
            parameters = function.get("parameters") or {"type": "object"}
            properties = {"name": {"const": function["name"]}, key: parameters}
            call = {"type": "object", "properties": properties, "required": ["name", key]}
            calls.append({**call, "additionalProperties": False})
    return json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls})


class _Mode(StrEnum):
    TEXT = "text"
    REASONING = "reasoning"
    HEAD = "head"  # of a call, up to its arguments
    ARGUMENTS = "arguments"
    REST = "rest"  # of a call, behind its arguments


class OutputParser:
    """Push the text as it comes, then finish. `style` None finds no calls, `reasoning` False no reasoning."""

    def __init__(self, style: ToolFormat | None, reasoning: bool = False) -> None:
        self._style, self._reasoning = style, reasoning
        self._mode = _Mode.TEXT
        self._buffer = ""
        self._opener = ""  # of the call that may begin, to give back if it does not
        self._fresh = True  # nothing but white space yet
        self._calls = 0
        self._scan = _Value()

    def push(self, text: str) -> list[Part]:
        """What is certain now."""
        self._buffer += text
        parts: list[Part] = []
        while self._step(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        """The text ends here."""
        rest, self._buffer = self._buffer, ""
        match self._mode:
            case _Mode.REASONING:
                return [Reasoning(rest)] if rest else []
            case _Mode.HEAD:
                return [Text(self._opener + rest)]
            case _Mode.TEXT if rest and not (self._calls and not rest.strip()):
                return [Text(rest)]
        return []

    def _step(self, parts: list[Part]) -> bool:
        """Take something off the buffer; False where more text is needed."""
        if not self._buffer:
            return False
        match self._mode:
            case _Mode.TEXT:
                return self._text(parts)
            case _Mode.REASONING:
                return self._think(parts)
            case _Mode.HEAD:
                return self._head(parts)
            case _Mode.ARGUMENTS:
                return self._arguments(parts)
            case _Mode.REST:
                return self._rest()

    def _text(self, parts: list[Part]) -> bool:
        if self._fresh:
            stripped = self._buffer.lstrip()
            if not stripped:
                return False
            if self._style in WHOLE and stripped[0] == "{":
                self._opener = self._buffer[: len(self._buffer) - len(stripped)]
                self._buffer, self._mode = stripped, _Mode.HEAD
                return True
            if self._calls:  # white space between calls says nothing
                self._buffer = stripped
        markers = [THINK] if self._reasoning else []
        if self._style in OPENERS:
            markers.append(OPENERS[self._style])
        place, marker = _earliest(self._buffer, markers)
        if marker is None:
            shown = self._buffer[: len(self._buffer) - _overlap(self._buffer, markers)]
            if self._fresh and not shown.strip():  # white space in front of a marker says nothing: wait for which it is
                return False
            self._buffer = self._buffer[len(shown) :]
            if shown:
                self._fresh = False
                parts.append(Text(shown))
            return False
        before = self._buffer[:place]
        self._buffer = self._buffer[place + len(marker) :]
        if before and not (self._fresh and not before.strip()):
            parts.append(Text(before))
            before = ""
        self._mode, self._opener = (_Mode.REASONING, "") if marker == THINK else (_Mode.HEAD, before + marker)
        return True

    def _think(self, parts: list[Part]) -> bool:
        place = self._buffer.find(THINK_END)
        if place < 0:
            shown = self._buffer[: len(self._buffer) - _overlap(self._buffer, [THINK_END])]
        else:
            shown = self._buffer[:place]
        if shown:
            parts.append(Reasoning(shown))
        self._buffer = self._buffer[len(shown) :]
        if place < 0:
            return False
        self._buffer = self._buffer[len(THINK_END) :]
        self._mode, self._fresh = _Mode.TEXT, True
        return True

    def _head(self, parts: list[Part]) -> bool:
        start = 0
        if self._style is ToolFormat.MISTRAL:
            start = _skip(self._buffer, 0)
            start += self._buffer.startswith("[", start) and self._opener.endswith(OPENERS[ToolFormat.MISTRAL])
        found = _call_head(self._buffer, start)
        if found is None:
            return False
        name, end = found
        if end < 0:
            parts.append(Text(self._opener + self._buffer[:1]))
            self._buffer, self._mode, self._fresh = self._buffer[1:], _Mode.TEXT, False
            return True
        parts.append(ToolCallStart(self._calls, name))
        self._calls += 1
        self._buffer, self._mode, self._scan = self._buffer[end:], _Mode.ARGUMENTS, _Value()
        return True

    def _arguments(self, parts: list[Part]) -> bool:
        count = self._scan.take(self._buffer)
        if count:
            parts.append(ToolCallArguments(self._calls - 1, self._buffer[:count]))
        self._buffer = self._buffer[count:]
        if not self._scan.ended:
            return False
        self._mode = _Mode.REST
        return True

    def _rest(self) -> bool:
        if self._style is ToolFormat.HERMES:
            place = self._buffer.find(HERMES_END)
            if place < 0:
                self._buffer = self._buffer[-len(HERMES_END) :]
                return False
            self._buffer = self._buffer[place + len(HERMES_END) :]
            self._mode, self._fresh = _Mode.TEXT, True
            return True
        first, self._buffer = self._buffer[0], self._buffer[1:]
        if first == "," and self._style is ToolFormat.MISTRAL:
            self._mode, self._opener = _Mode.HEAD, ","
        elif first in "}]" and (self._style is not ToolFormat.MISTRAL or first == "]"):
            self._mode, self._fresh = _Mode.TEXT, True
        return True


class _Value:
    """The end of a JSON value in a text that arrives in parts."""

    def __init__(self) -> None:
        self.ended = False
        self._depth = 0
        self._in_string = self._escaped = False

    def take(self, text: str) -> int:
        """How many characters of `text` belong to the value."""
        for at, char in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                if self._depth == 0:
                    self.ended = True
                    return at
                self._depth -= 1
                if self._depth == 0:
                    self.ended = True
                    return at + 1
            elif char == "," and self._depth == 0:
                self.ended = True
                return at
        return len(text)


def _call_head(text: str, at: int) -> tuple[str, int] | None:
    """(name, where its arguments begin), ("", -1) for what is no call; None where more text is needed to tell."""
    name = ""
    for wanted in (("{",), ('"name"',), (":",), None, (",",), _KEYS, (":",)):
        at = _skip(text, at)
        if at == len(text):
            return None
        if wanted is None:
            found = _STRING.match(text, at)
            if found is None:
                return None if text[at] == '"' else ("", -1)
            name, at = found[1], found.end()
            continue
        matched = next((word for word in wanted if text.startswith(word, at)), None)
        if matched is None:
            return None if any(word.startswith(text[at:]) for word in wanted) else ("", -1)
        at += len(matched)
    at = _skip(text, at)
    return None if at == len(text) else (name, at)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _earliest(text: str, markers: Sequence[str]) -> tuple[int, str | None]:
    places = [(place, marker) for marker in markers if (place := text.find(marker)) >= 0]
    return min(places, default=(0, None))


def _overlap(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of `text` with which a marker begins."""
    most = max(map(len, markers), default=0)
    for length in range(min(most, len(text)), 0, -1):
        if any(marker.startswith(text[-length:]) for marker in markers):
            return length
    return 0
