"""What an answer consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """`id` where the model gave one."""

    index: int
    name: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """The next piece of a call's arguments, which are JSON."""

    index: int
    text: str


Part: TypeAlias = Text | Reasoning | ToolCallStart | ToolCallArguments


class PartWriter:
    """Parts as they are found, until they are taken. Counts the calls; those beyond `most` are left out."""

    def __init__(self, most: int | None = None) -> None:
        self.calls = 0
        self._most = most
        self._parts: list[Part] = []

    def take(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts

    def text(self, text: str) -> None:
        if text:
            self._parts.append(Text(text))

    def reasoning(self, text: str) -> None:
        if text:
            self._parts.append(Reasoning(text))

    def start(self, name: str, call_id: str | None = None) -> None:
        self.calls += 1
        if self._wanted:
            self._parts.append(ToolCallStart(self.calls - 1, name, call_id))

    def arguments(self, text: str) -> None:
        """Of the call that was started last."""
        if text and self._wanted:
            self._parts.append(ToolCallArguments(self.calls - 1, text))

    @property
    def _wanted(self) -> bool:
        return self._most is None or self.calls <= self._most
