"""Tool calls and reasoning, found in the text of an answer as it grows.

Which parts come out does not depend on how the text was divided. What is no sound call comes out as text. Knows text
only.
"""

from __future__ import annotations

import re

from plait.tokenizer.toolcalls import bodies
from plait.tokenizer.toolcalls.bodies import BODIES, Body
from plait.tokenizer.toolcalls.formats import AnswerFormat, ToolFormat
from plait.tokenizer.toolcalls.parts import Part, PartWriter
from plait.tokenizer.toolcalls.reader import Reader, Scan, overlap
from plait.tokenizer.toolcalls.tagged_calls import Schemas

_WHOLE: dict[ToolFormat, Body] = {
    ToolFormat.LLAMA: bodies.whole_json,
    ToolFormat.JSON: bodies.whole_json,
    ToolFormat.GLM4: bodies.named,
    ToolFormat.PYTHON: bodies.PYTHON_WHOLE,
    ToolFormat.TOOL_CODE: bodies.PYTHON_WHOLE,
}
"""Formats in which the answer itself is a call, without a marker."""


class OutputParser:
    """Push the text as it comes, then finish. `tools` are the parameters' schemas by tool. `begun`: the prompt ends in
    a reasoning that these markers surround. Calls beyond `most` are left out."""

    def __init__(
        self,
        style: AnswerFormat,
        tools: Schemas | None = None,
        begun: tuple[str, str] | None = None,
        most: int | None = None,
    ) -> None:
        self._reader, self._writer = Reader(), PartWriter(most)
        self._schemas = tools or {}
        self._reasoning = dict(style.reasoning)
        self._dropped = frozenset(style.dropped)
        self._whole = None if style.tools is None else _WHOLE.get(style.tools)
        markers = [*self._reasoning, *self._dropped, *(style.openers if style.tools else ())]
        self._markers = sorted(markers, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._markers)) or "(?!)")
        self._fresh = True  # nothing but white space yet, or since a call or a reasoning
        self._scan = self._run(begun)
        next(self._scan)

    def push(self, text: str) -> list[Part]:
        """What is certain now."""
        self._reader.feed(text)
        next(self._scan, None)
        return self._writer.take()

    def finish(self) -> list[Part]:
        """The text ends here."""
        self._reader.end()
        for _ in self._scan:
            pass
        return self._writer.take()

    # --- the text ---------------------------------------------------------------------------------------------------

    def _run(self, begun: tuple[str, str] | None) -> Scan[None]:
        at = 0
        if begun is not None:
            at = yield from self._think(at, begun[1])
        while (yield from self._reader.char(at)):
            at = yield from self._next(at)
            self._reader.release(at)

    def _next(self, at: int) -> Scan[int]:
        """Take something off the text."""
        if self._fresh:
            end = yield from self._from_fresh(at)
            if end is not None:
                return end
        found = self._reader.search(self._pattern, at)
        if found is None:
            return (yield from self._show(at))
        place, marker = found
        if not (self._fresh and not self._reader.cut(at, place).strip()):
            self._writer.text(self._reader.cut(at, place))
            self._fresh = False
            at = place
        return (yield from self._marked(at, place + len(marker), marker))

    def _from_fresh(self, at: int) -> Scan[int | None]:
        """A call without a marker; or nothing but white space, of which only that in front of everything is text."""
        start = yield from self._reader.skip(at)
        begun = at == 0
        if start == self._reader.stop:
            self._writer.text(self._reader.cut(at) if begun else "")
            return start
        if self._whole is not None:
            end = yield from self._whole(self._reader, self._writer, start, self._schemas)
            if end is not None:
                return end
        if (yield from self._reader.literal(start, *self._markers)) is None:
            self._fresh = False
            return at if begun else start
        return None

    def _show(self, at: int) -> Scan[int]:
        """Text without a marker; what may be the beginning of one waits."""
        text = self._reader.cut(at)
        sure = len(text) if self._reader.ended else len(text) - overlap(text, self._markers)
        self._writer.text(text[:sure])
        self._reader.release(at + sure)
        if sure < len(text):
            yield
        return at + sure

    def _marked(self, at: int, behind: int, marker: str) -> Scan[int]:
        """What a marker begins. `at` is where the text that was not shown begins."""
        if marker in self._dropped:
            return behind
        if marker in self._reasoning:
            return (yield from self._think(behind, self._reasoning[marker]))
        end = yield from BODIES[marker](self._reader, self._writer, behind, self._schemas)
        self._fresh = end is not None
        if end is None:
            self._writer.text(self._reader.cut(at, behind))
            return behind
        return end

    def _think(self, at: int, closer: str) -> Scan[int]:
        """Reasoning, without the white space around it."""
        self._fresh = True
        at = yield from self._reader.skip(at)
        while True:
            text = self._reader.cut(at)
            place = text.find(closer)
            ended = place >= 0 or self._reader.ended
            inside = text[:place] if place >= 0 else text
            sure = inside.rstrip() if ended else inside[: len(inside) - overlap(inside, [closer])].rstrip()
            self._writer.reasoning(sure)
            if ended:
                return at + (place + len(closer) if place >= 0 else len(text))
            at += len(sure)
            self._reader.release(at)
            yield
