"""Tool calls and reasoning out of a stream of text."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.tokenizer.toolcalls import (
    OutputParser,
    Part,
    Reasoning,
    Text,
    ToolCallArguments,
    ToolCallStart,
    ToolFormat,
    format_of,
    tool_schema,
)

CALL = '{"name": "weather", "arguments": {"city": "Köln", "note": "a \\"}\\" b", "days": [1, 2]}}'
ARGUMENTS = '{"city": "Köln", "note": "a \\"}\\" b", "days": [1, 2]}'
LLAMA_CALL = CALL.replace("arguments", "parameters")
ANSWERS: list[tuple[ToolFormat | None, str]] = [
    (ToolFormat.HERMES, f"Let me look.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>"),
    (ToolFormat.HERMES, "<think>Hm, <b>so</b>.</think>\n\nThe answer is 3 < 4."),
    (ToolFormat.HERMES, "<tool_call>this is none</tool_call> and text"),
    (ToolFormat.HERMES, '<tool_call>{"name": "a", "arguments": {"cut": "off'),
    (ToolFormat.LLAMA, LLAMA_CALL),
    (ToolFormat.LLAMA, f"<|python_tag|>{LLAMA_CALL}"),
    (ToolFormat.LLAMA, '{"name": "no call", "age": 3}'),
    (ToolFormat.LLAMA, "Plain { text }"),
    (ToolFormat.MISTRAL, f"[TOOL_CALLS][{CALL}, {CALL}]"),
    (ToolFormat.MISTRAL, "[TOOL_CALL is what it said"),
    (ToolFormat.JSON, f" {CALL}"),
    (None, f"<tool_call>{CALL}</tool_call>"),
    (None, "<think>never ends"),
]


def joined(parts: list[Part]) -> list[Part]:
    """The parts with neighbours of one kind as one."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        match last, part:
            case Text(a), Text(b):
                found[-1] = Text(a + b)
            case Reasoning(a), Reasoning(b):
                found[-1] = Reasoning(a + b)
            case ToolCallArguments(i, a), ToolCallArguments(j, b) if i == j:
                found[-1] = ToolCallArguments(i, a + b)
            case _:
                found.append(part)
    return found


def parse(style: ToolFormat | None, pieces: list[str]) -> list[Part]:
    parser = OutputParser(style, reasoning=True)
    parts = [part for piece in pieces for part in parser.push(piece)]
    return joined([*parts, *parser.finish()])


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (
            0,
            [
                Text("Let me look.\n"),
                ToolCallStart(0, "weather"),
                ToolCallArguments(0, ARGUMENTS),
                ToolCallStart(1, "weather"),
                ToolCallArguments(1, ARGUMENTS),
            ],
        ),
        (1, [Reasoning("Hm, <b>so</b>."), Text("\n\nThe answer is 3 < 4.")]),
        (2, [Text("<tool_call>this is none</tool_call> and text")]),
        (3, [ToolCallStart(0, "a"), ToolCallArguments(0, '{"cut": "off')]),
        (4, [ToolCallStart(0, "weather"), ToolCallArguments(0, ARGUMENTS)]),
        (5, [ToolCallStart(0, "weather"), ToolCallArguments(0, ARGUMENTS)]),
        (6, [Text('{"name": "no call", "age": 3}')]),
        (7, [Text("Plain { text }")]),
        (
            8,
            [
                ToolCallStart(0, "weather"),
                ToolCallArguments(0, ARGUMENTS),
                ToolCallStart(1, "weather"),
                ToolCallArguments(1, ARGUMENTS),
            ],
        ),
        (9, [Text("[TOOL_CALL is what it said")]),
        (10, [ToolCallStart(0, "weather"), ToolCallArguments(0, ARGUMENTS)]),
        (11, [Text(f"<tool_call>{CALL}</tool_call>")]),
        (12, [Reasoning("never ends")]),
    ],
)
def test_what_comes_out(number: int, expected: list[Part]) -> None:
    style, text = ANSWERS[number]
    assert parse(style, [text]) == expected
    for part in expected:
        if isinstance(part, ToolCallArguments) and number != 3:
            assert json.loads(part.text)["city"] == "Köln"


@given(st.data())
def test_how_the_text_was_divided_does_not_matter(data: st.DataObject) -> None:
    style, text = data.draw(st.sampled_from(ANSWERS))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
    assert parse(style, [text[a:b] for a, b in pairwise(cuts)]) == parse(style, [text])


@given(
    st.sampled_from([*ToolFormat, None]),
    st.text(alphabet='<>/thinktool_callTOOLCALLS[]{}",: \\name|python_tag', max_size=60),
)
def test_no_text_breaks_it(style: ToolFormat | None, text: str) -> None:
    assert parse(style, list(text)) == parse(style, [text])


FRAGMENTS = [
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "<|python_tag|>", CALL, LLAMA_CALL),
    *('{"name":', '"name"', '"arguments":', '"parameters"', '"a\\"b"', "[", "]", "{", "}", ",", ":", " ", "\n", "</"),
    *("hello ", "<", "\\", '"', "1", "[TOOL", "é"),
]


@given(st.sampled_from([*ToolFormat, None]), st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join))
def test_no_mixture_of_marks_and_calls_depends_on_the_division(style: ToolFormat | None, text: str) -> None:
    whole = parse(style, [text])
    assert parse(style, list(text)) == whole
    if "<think>" not in text and not any(isinstance(part, ToolCallStart) for part in whole):
        assert "".join(part.text for part in whole if isinstance(part, Text)) == text


def test_the_template_tells_the_format() -> None:
    assert format_of("... <tool_call> ...") is ToolFormat.HERMES
    assert format_of("[TOOL_CALLS]") is ToolFormat.MISTRAL
    assert format_of("<|python_tag|>") is ToolFormat.LLAMA
    assert format_of(None) is ToolFormat.JSON


def test_the_schema_names_the_tool_and_its_parameters() -> None:
    tools = [{"function": {"name": name, "parameters": {"type": "object"}}} for name in ("a", "b")]
    one = json.loads(tool_schema(ToolFormat.LLAMA, tools, "b"))
    assert one["properties"]["name"] == {"const": "b"}
    assert one["required"] == ["name", "parameters"]
    assert len(json.loads(tool_schema(ToolFormat.HERMES, tools, None))["anyOf"]) == 2
