"""What follows the marker with which a call begins, marker by marker.

Each body returns where it ends, closing markers included, or None for what is no call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from plait.tokenizer.toolcalls import json_calls, python_calls, tagged_calls
from plait.tokenizer.toolcalls.parts import PartWriter
from plait.tokenizer.toolcalls.reader import Reader, Scan
from plait.tokenizer.toolcalls.tagged_calls import NAME, Schemas, behind

Body: TypeAlias = Callable[[Reader, PartWriter, int, Schemas], Scan[int | None]]


def _json(*closers: str, before: tuple[str, ...] = ()) -> Body:
    """An object or an array, perhaps behind one of `before`, perhaps closed by one of `closers`."""

    def body(reader: Reader, writer: PartWriter, at: int, schemas: Schemas) -> Scan[int | None]:
        if before:
            at = yield from behind(reader, at, *before)
        end = yield from json_calls.calls(reader, writer, at)
        return end if end is None or not closers else (yield from behind(reader, end, *closers))

    return body


def _python(closer: str) -> Body:
    def body(reader: Reader, writer: PartWriter, at: int, schemas: Schemas) -> Scan[int | None]:
        return (yield from python_calls.block(reader, writer, at, closer, schemas))

    return body


def _tool_call(reader: Reader, writer: PartWriter, at: int, schemas: Schemas) -> Scan[int | None]:
    """<tool_call>: JSON, or a function with tags, or a name with tags."""
    at = yield from reader.skip(at)
    if (yield from reader.char(at)) in ("{", "["):
        end = yield from json_calls.calls(reader, writer, at)
    elif (yield from reader.literal(at, "<function=")) is not None:
        end = yield from tagged_calls.function(reader, writer, at + len("<function="), schemas)
    else:
        end = yield from tagged_calls.keyed(reader, writer, at, schemas)
    return end if end is None else (yield from behind(reader, end, "</tool_call>"))


def _mistral(reader: Reader, writer: PartWriter, at: int, schemas: Schemas) -> Scan[int | None]:
    """[TOOL_CALLS]: an array, or name[CALL_ID]id[ARGS]{..} with the two markers perhaps left out."""
    at = yield from reader.skip(at)
    if (yield from reader.char(at)) in ("{", "["):
        return (yield from json_calls.calls(reader, writer, at))
    end = yield from reader.run(at, NAME)
    name, call_id = reader.cut(at, end), None
    if not name:
        return None
    if (yield from reader.literal(end, "[CALL_ID]")) is not None:
        at = end + len("[CALL_ID]")
        end = yield from reader.run(at, NAME)
        call_id = reader.cut(at, end)
    at = yield from reader.skip((yield from behind(reader, end, "[ARGS]")))
    if (yield from reader.char(at)) != "{":
        return None
    writer.start(name, call_id)
    return (yield from json_calls.arguments(reader, writer, at))


def _deepseek(reader: Reader, writer: PartWriter, at: int, schemas: Schemas) -> Scan[int | None]:
    """Calls one after the other: function<sep>name, then the arguments in a fence; or name<sep>arguments."""
    begun = writer.calls
    while True:
        end = yield from _deepseek_call(reader, writer, at)
        if end is None:
            break
        at = end
    return (yield from behind(reader, at, *DEEPSEEK_ENDS)) if writer.calls > begun else None


def _deepseek_call(reader: Reader, writer: PartWriter, at: int) -> Scan[int | None]:
    at = yield from reader.skip((yield from behind(reader, at, *DEEPSEEK_CALLS)))
    end = yield from reader.run(at, NAME)
    separator = yield from reader.literal(end, *DEEPSEEK_SEPARATORS)
    name = reader.cut(at, end)
    if not name or separator is None:
        return None
    at = end + len(separator)
    if (yield from reader.char((yield from reader.skip(at)))) != "{":
        at = yield from reader.skip(at)
        end = yield from reader.run(at, NAME)
        name = reader.cut(at, end)
        at = yield from behind(reader, end, "```json", "```")
    at = yield from reader.skip(at)
    if not name or (yield from reader.char(at)) != "{":
        return None
    writer.start(name)
    at = yield from json_calls.arguments(reader, writer, at)
    return (yield from behind(reader, (yield from behind(reader, at, "```")), *DEEPSEEK_CALL_ENDS))


def _llama(reader: Reader, writer: PartWriter, at: int, schemas: Schemas) -> Scan[int | None]:
    """<|python_tag|>: JSON, or name.call(key="value"), which is what Llama 3.1 says to its built-in tools."""
    at = yield from reader.skip(at)
    if (yield from reader.char(at)) == "{":
        return (yield from json_calls.calls(reader, writer, at))
    end = yield from reader.run(at, NAME)
    if not reader.cut(at, end).endswith(".call") or (yield from reader.char(end)) != "(":
        return None
    while not reader.ended:
        yield
    tool = reader.cut(at, end)
    known = {tool: schemas.get(tool.removesuffix(".call"), {})}
    calls = PartWriter()
    if (yield from python_calls.block(reader, calls, at, "<|eom_id|>", known)) is None:
        return None
    writer.start(tool.removesuffix(".call"))
    writer.arguments("".join(getattr(part, "text", "") for part in calls.take()))
    return reader.stop


def _function(reader: Reader, writer: PartWriter, at: int, schemas: Schemas) -> Scan[int | None]:
    return (yield from tagged_calls.function(reader, writer, at, schemas))


def named(reader: Reader, writer: PartWriter, at: int, schemas: Schemas) -> Scan[int | None]:
    """An answer that is the name of a tool and, on the next line, its arguments: GLM-4."""
    end = yield from reader.run(at, NAME)
    name = reader.cut(at, end)
    if name not in schemas or (yield from reader.char(end)) != "\n":
        return None
    at = yield from reader.skip(end)
    if (yield from reader.char(at)) != "{":
        return None
    writer.start(name)
    return (yield from json_calls.arguments(reader, writer, at))


def whole_json(reader: Reader, writer: PartWriter, at: int, schemas: Schemas) -> Scan[int | None]:
    return (yield from json_calls.whole(reader, writer, at))


DEEPSEEK_CALLS = ("<｜tool▁call▁begin｜>", "<｜tool_call_begin｜>")
DEEPSEEK_SEPARATORS = ("<｜tool▁sep｜>", "<｜tool_sep｜>")
DEEPSEEK_CALL_ENDS = ("<｜tool▁call▁end｜>", "<｜tool_call_end｜>")
DEEPSEEK_ENDS = ("<｜tool▁calls▁end｜>", "<｜tool_calls_end｜>")
BODIES: Mapping[str, Body] = {
    "<tool_call>": _tool_call,
    "<|tool_call|>": _json("<|/tool_call|>"),
    "<|python_tag|>": _llama,
    "<function=": _function,
    "[TOOL_CALLS]": _mistral,
    "<|START_ACTION|>": _json("<|END_ACTION|>"),
    "Action:": _json("```", before=("```json", "```")),
    "<｜tool▁calls▁begin｜>": _deepseek,
    "<｜tool_calls_begin｜>": _deepseek,
    "<|action_start|>": _json("<|action_end|>", before=("<|plugin|>",)),
    "<|tool_call_start|>": _python("<|tool_call_end|>"),
    "<TOOLCALL>": _json("</TOOLCALL>"),
    "functools": _json(),
    "```tool_code": _python("```"),
    "<code>": _python("</code>"),
}
"""By the marker with which a call begins."""
CLOSERS = (
    *("</tool_call>", "<|/tool_call|>", "[CALL_ID]", "[ARGS]", "<|END_ACTION|>", "<|plugin|>", "<|action_end|>"),
    *("<|tool_call_end|>", "</TOOLCALL>", "</function>", "<parameter=", "</parameter>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    *(*DEEPSEEK_CALLS, *DEEPSEEK_SEPARATORS, *DEEPSEEK_CALL_ENDS, *DEEPSEEK_ENDS),
)
"""Other markers, which may be special tokens."""
PYTHON_WHOLE: Body = python_calls.whole
