"""A call that must be made, in the model's own format: what opens it stands in the prompt, a grammar holds the rest.

Markers are often special tokens, which a grammar over text cannot ask for: so the prompt has them. Knows text only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plait.tokenizer.toolcalls.formats import ToolFormat
from plait.types import Grammar, GrammarKind

_OBJECTS: Mapping[ToolFormat, tuple[str, str]] = {
    ToolFormat.HERMES: ("<tool_call>\n", "arguments"),
    ToolFormat.INTERNLM: ("<|action_start|><|plugin|>\n", "parameters"),
    ToolFormat.LLAMA: ("", "parameters"),
    ToolFormat.JSON: ("", "arguments"),
}
_ARRAYS: Mapping[ToolFormat, tuple[str, str, str]] = {
    ToolFormat.MISTRAL: ("[TOOL_CALLS]", "name", "arguments"),
    ToolFormat.BARS: ("<|tool_call|>", "name", "arguments"),
    ToolFormat.NEMOTRON: ("<TOOLCALL>", "name", "arguments"),
    ToolFormat.COMMAND_R: ("Action: ```json\n", "tool_name", "parameters"),
    ToolFormat.COMMAND_R7B: ("<|START_ACTION|>", "tool_name", "parameters"),
}
_NAMED: Mapping[ToolFormat, tuple[str, str, str]] = {
    ToolFormat.MISTRAL_ARGS: ("[TOOL_CALLS]", "[ARGS]", ""),
    ToolFormat.DEEPSEEK: ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n", "\n```"),
    ToolFormat.GLM4: ("", "\n", ""),
    ToolFormat.FUNCTION: ("<function=", ">", "</function>"),
}
_PYTHON: Mapping[ToolFormat, tuple[str, str]] = {
    ToolFormat.TOOL_CODE: ("```tool_code\n", "\n```"),
    ToolFormat.PYTHON_TAGS: ("<|tool_call_start|>[", "]"),
    ToolFormat.PYTHON: ("[", "]"),
}
_TAGS: Mapping[ToolFormat, tuple[str, str, str, str, str]] = {
    ToolFormat.QWEN_CODER: (
        "<tool_call>\n<function=",
        ">\n",
        "<parameter={}>\n",
        "\n</parameter>",
        "</function>\n</tool_call>",
    ),
    ToolFormat.GLM: ("<tool_call>", "\n", "<arg_key>{}</arg_key>\n<arg_value>", "</arg_value>", "</tool_call>"),
}


@dataclass(frozen=True, slots=True)
class ForcedCall:
    """`opener` is to stand at the end of the prompt, and at the beginning of what a parser reads."""

    opener: str
    grammar: Grammar


def forced_call(style: ToolFormat, tools: Sequence[Mapping[str, Any]], name: str | None) -> ForcedCall:
    """One call of the tool `name`, or of any."""
    functions = [tool["function"] for tool in tools if name in (None, tool["function"]["name"])]
    if style in _OBJECTS:
        opener, arguments = _OBJECTS[style]
        return ForcedCall(opener, _json(_schema(functions, "name", arguments)))
    if style in _ARRAYS:
        opener, key, arguments = _ARRAYS[style]
        schema = _schema(functions, key, arguments)
        definitions = {"$defs": schema.pop("$defs")} if "$defs" in schema else {}
        array = {"type": "array", "items": schema, "minItems": 1, "maxItems": 1, **definitions}
        return ForcedCall(opener, _json(array))
    if style in _NAMED:
        opener, behind, closer = _NAMED[style]
        return _alternatives(opener, closer, functions, lambda f: behind, lambda f: f"%json {_parameters(f)}")
    if style in _PYTHON:
        opener, closer = _PYTHON[style]
        return _alternatives(opener, closer, functions, lambda f: "(", _python_arguments)
    opener, behind, key, end, closer = _TAGS[style]
    return _alternatives(opener, closer, functions, lambda f: behind, lambda f: _tagged_arguments(f, key, end))


def holds(style: ToolFormat, function: Mapping[str, Any]) -> bool:
    """Whether a forced call keeps to the whole schema. Between tags a text is any text."""
    members = _members(function) if style in _TAGS else []
    return not any(schema.get("type") == "string" and set(schema) - _NOTES for _, schema, _ in members)


def _json(schema: Mapping[str, Any]) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))


def _schema(functions: Sequence[Mapping[str, Any]], key: str, arguments: str) -> dict[str, Any]:
    """Of one call. Definitions of the parameters move to where their references look for them."""
    calls, definitions = [], dict[str, Any]()
    for function in functions:
        parameters = dict(function.get("parameters") or {"type": "object"})
        definitions |= parameters.pop("$defs", {})
        properties = {key: {"const": function["name"]}, arguments: parameters}
        calls.append(
            {"type": "object", "properties": properties, "required": [key, arguments], "additionalProperties": False}
        )
    schema: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**schema, "$defs": definitions} if definitions else schema


def _alternatives(opener: str, closer: str, functions: Any, behind: Any, body: Any) -> ForcedCall:
    """A single tool's name is part of the opener; of several, the grammar lets the model choose."""
    end = f" {json.dumps(closer)}" if closer else ""
    if len(functions) == 1:
        (one,) = functions
        return ForcedCall(opener + one["name"] + behind(one), _lark(f"start: {body(one)}{end}"))
    ways = " | ".join(f"{json.dumps(one['name'] + behind(one))} {body(one)}" for one in functions)
    return ForcedCall(opener, _lark(f"start: ({ways}){end}"))


_NOTES = {"type", "title", "description", "default", "examples"}
"""Keywords that do not bound what a text may be."""
_VALUES = {"\n</parameter>": "lines", "</arg_value>": "value"}
"""Rules of a text up to what ends it."""


def _lark(rules: str) -> Grammar:
    texts = [f"{name}[suffix={json.dumps(end)}]: /(?s:.*)/" for end, name in _VALUES.items() if f" {name} " in rules]
    return Grammar(GrammarKind.LARK, "\n".join([rules, *texts]))


def _parameters(function: Mapping[str, Any]) -> str:
    return json.dumps(function.get("parameters") or {"type": "object"})


def _members(function: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], bool]]:
    """(name, schema, whether it must be there)."""
    parameters = function.get("parameters") or {}
    required = parameters.get("required") or ()
    members = list((parameters.get("properties") or {}).items())
    return [(key, schema, key in required) for key, schema in sorted(members, key=lambda m: m[0] not in required)]


def _python_arguments(function: Mapping[str, Any]) -> str:
    """Those that are required first, so that a comma stands in front of each other one; where none is required, the
    first ones of those that there are."""
    members = _members(function)
    rules = [
        f"{json.dumps((', ' if number else '') + key + '=')} %json {json.dumps(schema)}"
        for number, (key, schema, _) in enumerate(members)
    ]
    if members and not members[0][2]:
        chain = ""
        for rule in reversed(rules):
            chain = f"({rule} {chain})?"
        return f'{chain} ")"'
    wanted = [rule if must else f"({rule})?" for rule, (_, _, must) in zip(rules, members, strict=True)]
    return " ".join([*wanted, '")"'])


def _tagged_arguments(function: Mapping[str, Any], key: str, end: str) -> str:
    rules = ""
    for name, schema, required in _members(function):
        value = _VALUES[end] if schema.get("type") == "string" else f"%json {json.dumps(schema)} {json.dumps(end)}"
        rule = f'{json.dumps(key.format(name))} {value} "\\n"'
        rules += f" {rule}" if required else f" ({rule})?"
    return rules
