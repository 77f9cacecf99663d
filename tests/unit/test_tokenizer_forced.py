"""A call that must be made: the grammar takes what the model would write, nothing else, and the parser reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from plait.tokenizer.grammar import check_grammar, source_of
from plait.tokenizer.toolcalls import OutputParser, Text, ToolCallArguments, ToolCallStart, ToolFormat
from plait.tokenizer.toolcalls.bodies import BODIES as OPENERS
from plait.tokenizer.toolcalls.forced import forced_call, holds
from plait.tokenizer.toolcalls.formats import AnswerFormat

PROPERTIES: dict[str, Any] = {"city": {"type": "string"}, "days": {"type": "integer"}}
PARAMETERS = {"type": "object", "properties": PROPERTIES, "required": ["city"], "additionalProperties": False}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "now"}},
]
SCHEMAS = {"weather": PROPERTIES, "now": {}}
ARGUMENTS = '{"city": "Köln", "days": 3}'
OBJECT = f'{{"name": "weather", "arguments": {ARGUMENTS}}}'
LLAMA = OBJECT.replace("arguments", "parameters")
COHERE = LLAMA.replace('"name"', '"tool_name"')
TAGS = "<parameter=city>\nKöln\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
KEYS = "<arg_key>city</arg_key>\n<arg_value>Köln</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n"
PYTHON = 'weather(city="Köln", days=3)'
WRITTEN = {
    ToolFormat.HERMES: f"<tool_call>\n{OBJECT}",
    ToolFormat.QWEN_CODER: f"<tool_call>\n<function=weather>\n{TAGS}</function>\n</tool_call>",
    ToolFormat.GLM: f"<tool_call>weather\n{KEYS}</tool_call>",
    ToolFormat.GLM4: f"weather\n{ARGUMENTS}",
    ToolFormat.LLAMA: LLAMA,
    ToolFormat.FUNCTION: f"<function=weather>{ARGUMENTS}</function>",
    ToolFormat.MISTRAL: f"[TOOL_CALLS][{OBJECT}]",
    ToolFormat.MISTRAL_ARGS: f"[TOOL_CALLS]weather[ARGS]{ARGUMENTS}",
    ToolFormat.COMMAND_R: f"Action: ```json\n[{COHERE}]",
    ToolFormat.COMMAND_R7B: f"<|START_ACTION|>[{COHERE}]",
    ToolFormat.BARS: f"<|tool_call|>[{OBJECT}]",
    ToolFormat.DEEPSEEK: (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{ARGUMENTS}\n```"
    ),
    ToolFormat.INTERNLM: f"<|action_start|><|plugin|>\n{LLAMA}",
    ToolFormat.NEMOTRON: f"<TOOLCALL>[{OBJECT}]",
    ToolFormat.PYTHON_TAGS: f"<|tool_call_start|>[{PYTHON}]",
    ToolFormat.TOOL_CODE: f"```tool_code\n{PYTHON}\n```",
    ToolFormat.PYTHON: f"[{PYTHON}]",
    ToolFormat.JSON: OBJECT,
}
BYTES = LLTokenizer("byte")


def takes(source: str, text: str) -> bool:
    """Whether the grammar takes the text, and is complete with it."""
    matcher = LLMatcher(BYTES, source, log_level=0)
    tokens = list(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize("style", ToolFormat)
@pytest.mark.parametrize("name", ["weather", None])
def test_the_models_own_format_is_forced(style: ToolFormat, name: str | None) -> None:
    call = forced_call(style, TOOLS, name)
    check_grammar(call.grammar)
    source, written = source_of(call.grammar), WRITTEN[style]
    assert written.startswith(call.opener)
    rest = written.removeprefix(call.opener)
    assert takes(source, rest)
    assert not takes(source, rest.replace("3", '"three"'))  # a text is no integer
    assert not takes(source, "Well, " + rest)
    assert not takes(source, rest.replace("city", "town"))
    parser = OutputParser(AnswerFormat(style, tuple(o for o in OPENERS if written.startswith(o))), SCHEMAS)
    parts = [*parser.push(call.opener), *parser.push(rest), *parser.finish()]
    assert [part.name for part in parts if isinstance(part, ToolCallStart)] == ["weather"]
    arguments = "".join(part.text for part in parts if isinstance(part, ToolCallArguments))
    assert json.loads(arguments) == json.loads(ARGUMENTS)
    assert not any(isinstance(part, Text) for part in parts)


def test_definitions_are_where_references_look() -> None:
    parameters = {
        "type": "object",
        "properties": {"place": {"$ref": "#/$defs/Place"}},
        "required": ["place"],
        "$defs": {"Place": {"type": "string"}},
    }
    tool = {"type": "function", "function": {"name": "go", "parameters": parameters}}
    for style in (ToolFormat.HERMES, ToolFormat.MISTRAL):
        call = forced_call(style, [tool], None)
        check_grammar(call.grammar)
        body = '{"name": "go", "arguments": {"place": "Köln"}}'
        assert takes(source_of(call.grammar), f"[{body}]" if style is ToolFormat.MISTRAL else body)


def test_where_no_argument_is_required_all_may_be_left_out() -> None:
    tool = {"type": "function", "function": {"name": "go", "parameters": {"properties": PROPERTIES}}}
    source = source_of(forced_call(ToolFormat.PYTHON, [tool], None).grammar)
    for rest in (")]", 'city="a")]', 'city="a", days=1)]'):
        assert takes(source, rest)
    assert not takes(source, ", days=1)]")


def test_a_text_between_tags_is_any_text() -> None:
    """So a strict function with a choice of texts is not for those formats."""
    plain = {"name": "f", "parameters": {"properties": {"a": {"type": "string", "description": "which"}}}}
    chosen = {"name": "f", "parameters": {"properties": {"a": {"type": "string", "enum": ["x"]}}}}
    for style in ToolFormat:
        assert holds(style, plain)
        assert holds(style, chosen) == (style not in (ToolFormat.QWEN_CODER, ToolFormat.GLM))
