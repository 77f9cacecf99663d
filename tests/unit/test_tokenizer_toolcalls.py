"""Tool calls and reasoning out of a stream of text, in every format."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.tokenizer.toolcalls import (
    AnswerFormat,
    OutputParser,
    Part,
    Reasoning,
    Text,
    ToolCallArguments,
    ToolCallStart,
    ToolFormat,
    answer_format,
    format_of,
)
from plait.tokenizer.toolcalls.bodies import BODIES
from support.chat_templates_older import OLDER

CALL = '{"name": "weather", "arguments": {"city": "Köln", "note": "a \\"}\\" b", "days": [1, 2]}}'
ARGUMENTS = '{"city": "Köln", "note": "a \\"}\\" b", "days": [1, 2]}'
LLAMA_CALL = CALL.replace("arguments", "parameters")
COHERE = LLAMA_CALL.replace('"name"', '"tool_name"')
SCHEMAS = {"weather": {"city": {"type": "string"}, "note": {"type": "string"}, "days": {"type": "array"}}, "now": {}}
TAGS = (
    '<parameter=city>\nKöln\n</parameter>\n<parameter=note>\na "}" b\n</parameter>\n'
    "<parameter=days>\n[1, 2]\n</parameter>"
)
KEYS = (
    "<arg_key>city</arg_key>\n<arg_value>Köln</arg_value>\n<arg_key>note</arg_key>\n"
    '<arg_value>a "}" b</arg_value>\n<arg_key>days</arg_key>\n<arg_value>[1, 2]</arg_value>\n'
)
PYTHON = "weather(city='Köln', note='a \"}\" b', days=[1, 2])"
R1 = f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜>"
V31 = f"<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>"

# (what stands in the template, an answer, its calls): each call is weather with the arguments above.
SOUND: dict[str, tuple[str, str, int]] = {
    "hermes": ("<tool_call>", f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>", 2),
    "granite array": ("<tool_call>", f"<tool_call>[{CALL}, {CALL}]", 2),
    "other order": ("<tool_call>", f'<tool_call>{{"arguments": {ARGUMENTS}, "name": "weather"}}</tool_call>', 1),
    "arguments in a string": (
        "<tool_call>",
        f'<tool_call>{{"name": "weather", "arguments": {json.dumps(ARGUMENTS)}}}</tool_call>',
        1,
    ),
    "a brace is missing": ("<tool_call>", f"<tool_call>{CALL[:-1]}\n</tool_call>", 1),
    "qwen coder": (
        "<tool_call> <function=",
        f"<tool_call>\n<function=weather>\n{TAGS}\n</function>\n</tool_call>",
        1,
    ),
    "glm 4.5": (
        "<tool_call> <arg_key>",
        f"<tool_call>weather\n{KEYS}</tool_call>\n<tool_call>weather\n{KEYS}</tool_call>",
        2,
    ),
    "glm 4": ("<|observation|>", f"weather\n{ARGUMENTS}", 1),
    "llama": ("<|python_tag|>", LLAMA_CALL, 1),
    "llama, several": ("<|python_tag|>", f"{LLAMA_CALL}; {LLAMA_CALL}", 2),
    "llama, tag": ("<|python_tag|>", f"<|python_tag|>{LLAMA_CALL}", 1),
    "llama, type": ("<|python_tag|>", '{"type": "function", ' + LLAMA_CALL[1:], 1),
    "llama, built-in": ("<|python_tag|>", f"<|python_tag|>{PYTHON.replace('(', '.call(')}", 1),
    "functionary": ("<function=", f"<function=weather>{ARGUMENTS}</function>", 1),
    "mistral": ("[TOOL_CALLS]", f"[TOOL_CALLS][{CALL}, {CALL}]", 2),
    "mistral with ids": ("[TOOL_CALLS]", f'[TOOL_CALLS] [{CALL[:-1]}, "id": "abcdefghi"}}]', 1),
    "mistral, newer": (
        "[TOOL_CALLS] [ARGS]",
        f"[TOOL_CALLS]weather[ARGS]{ARGUMENTS}[TOOL_CALLS]weather[CALL_ID]x1[ARGS]{ARGUMENTS}",
        2,
    ),
    "command-r": ("Action: tool_name", f"Action: ```json\n[{COHERE}, {COHERE}]\n```", 2),
    "command-r7b": (
        "<|START_ACTION|>",
        f'<|START_ACTION|>[\n{{"tool_call_id": "0", {COHERE[1:]}\n]<|END_ACTION|>',
        1,
    ),
    "granite": ("<|tool_call|>", f"<|tool_call|>[{CALL}]", 1),
    "phi 4 mini": ("<|/tool|>", f"<|tool_call|>[{CALL}]<|/tool_call|>", 1),
    "deepseek r1": ("<｜tool▁calls▁begin｜>", f"<｜tool▁calls▁begin｜>{R1}\n{R1}<｜tool▁calls▁end｜>", 2),
    "deepseek v3.1": ("<｜tool▁calls▁begin｜>", f"<｜tool▁calls▁begin｜>{V31}{V31}<｜tool▁calls▁end｜>", 2),
    "internlm": ("<|action_start|>", f"<|action_start|><|plugin|>\n{LLAMA_CALL}<|action_end|>", 1),
    "nemotron": ("<TOOLCALL>", f"<TOOLCALL>[{CALL}]</TOOLCALL>", 1),
    "smollm3, python": ("<tool_call> <code>", f"<code>{PYTHON}</code>", 1),
    "gemma": ("tool_code", f"```tool_code\nprint({PYTHON})\n```", 1),
    "lfm2": ("<|tool_call_start|>", f"<|tool_call_start|>[{PYTHON}, {PYTHON}]<|tool_call_end|>", 2),
    "python": ("func_name1(", f"[{PYTHON}]", 1),
    "json": ("", f" {CALL}", 1),
}

# (what stands in the template, an answer that is no call)
NO_CALLS = [
    ("<tool_call>", "<tool_call>this is none</tool_call> and text"),
    ("<tool_call>", '<tool_call>{"name": 3}</tool_call>'),
    ("<tool_call>", '<tool_call>{"name": "cut o'),
    ("<|python_tag|>", '{"name": "no call", "age": 3}'),
    ("<|python_tag|>", "Plain { text }"),
    ("<|python_tag|>", "<|python_tag|>import os"),
    ("[TOOL_CALLS]", "[TOOL_CALL is what it said"),
    ("[TOOL_CALLS]", "[TOOL_CALLS] is how calls begin"),
    ("Action: tool_name", "Action: run, do not walk"),
    ("<|observation|>", "Hello\n{}"),
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁begin｜>none<｜tool▁calls▁end｜>"),
    ("tool_code", "```tool_code\nimport os\n```"),
    ("tool_code", "```tool_code\n__import__('os').system('ls')\n```"),
    ("func_name1(", "[weather report]"),
    ("", "[1, 2]"),
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


def parse(style: AnswerFormat, pieces: list[str], begun: tuple[str, str] | None = None) -> list[Part]:
    parser = OutputParser(style, SCHEMAS, begun)
    parts = [part for piece in pieces for part in parser.push(piece)]
    return joined([*parts, *parser.finish()])


@pytest.mark.parametrize(("template", "answer", "calls"), SOUND.values(), ids=SOUND.keys())
def test_calls_are_found(template: str, answer: str, calls: int) -> None:
    parts = parse(answer_format(template), [answer])
    starts = [part for part in parts if isinstance(part, ToolCallStart)]
    arguments = [part for part in parts if isinstance(part, ToolCallArguments)]
    assert [(part.index, part.name) for part in starts] == [(i, "weather") for i in range(calls)]
    assert [(part.index, json.loads(part.text)) for part in arguments] == [
        (i, json.loads(ARGUMENTS)) for i in range(calls)
    ]
    assert len(parts) == 2 * calls  # and no text


@pytest.mark.parametrize(("template", "answer", "calls"), SOUND.values(), ids=SOUND.keys())
def test_text_around_calls_stays(template: str, answer: str, calls: int) -> None:
    style = answer_format(template)
    if not style.openers or not answer.startswith(style.openers):
        return
    parts = parse(style, ["I look.\n", answer])
    assert parts[0] == Text("I look.\n")
    assert sum(isinstance(part, ToolCallStart) for part in parts) == calls


@pytest.mark.parametrize(("template", "answer"), NO_CALLS)
def test_what_is_no_call_is_text(template: str, answer: str) -> None:
    assert parse(answer_format(template), [answer]) == [Text(answer)]


def test_ids_of_the_model_are_kept() -> None:
    for name, expected in (("mistral, newer", [None, "x1"]), ("command-r7b", ["0"])):
        template, answer, _ = SOUND[name]
        parts = parse(answer_format(template), [answer])
        assert [part.id for part in parts if isinstance(part, ToolCallStart)] == expected


def test_arguments_come_as_they_are_written() -> None:
    for template, begin, rest in (
        ("<tool_call>", '<tool_call>{"name": "weather", "arguments": {"city": "Kö', '{"city": "Kö'),
        (
            "<tool_call> <function=",
            "<tool_call><function=weather><parameter=city>\n" + "K" * 50,
            '{"city": "' + "K" * 37,
        ),
        ("[TOOL_CALLS] [ARGS]", '[TOOL_CALLS]weather[ARGS]{"ci', '{"ci'),
    ):
        parts = joined(OutputParser(answer_format(template), SCHEMAS).push(begin))
        assert parts == [ToolCallStart(0, "weather"), ToolCallArguments(0, rest)]


REASONING = {
    "<think>": "<think>\nHm, <b>so</b>.\n</think>\n\nThe answer is 3 < 4.",
    "<thought>": "<thought>Hm, <b>so</b>.</thought>The answer is 3 < 4.",
    "<|START_THINKING|> <|START_RESPONSE|> <|END_RESPONSE|>": (
        "<|START_THINKING|>Hm, <b>so</b>.<|END_THINKING|><|START_RESPONSE|>The answer is 3 < 4.<|END_RESPONSE|>"
    ),
    "[THINK]": "[THINK]Hm, <b>so</b>.[/THINK]The answer is 3 < 4.",
    "</think> <response></response>": "<think>Hm, <b>so</b>.</think><response>The answer is 3 < 4.</response>",
    "Here is my thought process:": (
        "Here is my thought process:\nHm, <b>so</b>.\n\nHere is my response:\nThe answer is 3 < 4."
    ),
}


@pytest.mark.parametrize(("template", "answer"), REASONING.items())
def test_reasoning_is_told_apart(template: str, answer: str) -> None:
    style = answer_format(template).without_tools()
    expected = [Reasoning("Hm, <b>so</b>."), Text("The answer is 3 < 4.")]
    assert parse(style, [answer]) == expected
    pair = style.reasoning_begun("<|assistant|>" + style.reasoning[0][0] + "\n")
    assert pair == style.reasoning[0]
    assert parse(style, [answer.removeprefix(pair[0])], begun=pair) == expected


def test_reasoning_that_the_prompt_closed_is_none() -> None:
    assert answer_format("<think>").reasoning_begun("<think>\n\n</think>\n\n") is None


def test_reasoning_and_then_a_call() -> None:
    style = answer_format("<think> <tool_call>")
    parts = parse(style, [f"<think>Hm</think>\n\nSo:\n<tool_call>{CALL}</tool_call>"])
    assert parts == [Reasoning("Hm"), Text("So:\n"), ToolCallStart(0, "weather"), ToolCallArguments(0, ARGUMENTS)]
    assert parse(style, ["<think>never ends "]) == [Reasoning("never ends")]
    assert parse(AnswerFormat(), [f"<tool_call>{CALL}</tool_call>"]) == [Text(f"<tool_call>{CALL}</tool_call>")]


ANSWERS = [
    *[(template, answer) for template, answer, _ in SOUND.values()],
    *NO_CALLS,
    *REASONING.items(),
    ("<tool_call>", f"<tool_call>{CALL[:-1]} and so on</tool_call> more"),
    ("<tool_call>", f"<tool_call>[{CALL}, 3]</tool_call>"),
]


@given(st.data())
def test_how_the_text_was_divided_does_not_matter(data: st.DataObject) -> None:
    template, answer = data.draw(st.sampled_from(ANSWERS))
    text = data.draw(st.sampled_from(["", "Well. ", "\n"])) + answer + data.draw(st.sampled_from(["", " Done.", "\n"]))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
    style = answer_format(template)
    assert parse(style, [text[a:b] for a, b in pairwise(cuts)]) == parse(style, [text])


STYLES = [answer_format(f"{template} <think> <response></response>") for template, _, _ in SOUND.values()]
FRAGMENTS = [
    *BODIES,
    *("</tool_call>", "<think>", "</think>", "<response>", "[ARGS]", "<parameter=city>", "</parameter>", "</function>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "function"),
    *("weather", "now", "weather>", "(", ")", "```", "```json\n", CALL, LLAMA_CALL, ARGUMENTS, PYTHON),
    *('{"name":', '"name"', '"arguments":', '"parameters"', '"a\\"b"', "[", "]", "{", "}", ",", ":", " ", "\n", "</"),
    *("hello ", "<", "\\", '"', "1", "[TOOL", "é", ";"),
]


@given(st.sampled_from(STYLES), st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join))
def test_no_mixture_of_marks_and_calls_depends_on_the_division(style: AnswerFormat, text: str) -> None:
    whole = parse(style, [text])
    assert parse(style, list(text)) == whole
    if not any(marker in text for marker in ("<think>", "<response>")) and not any(
        isinstance(part, ToolCallStart) for part in whole
    ):
        assert "".join(part.text for part in whole if isinstance(part, Text)) == text


def test_no_marker_begins_another() -> None:
    style = answer_format(" ".join([*BODIES, *REASONING]))
    markers = [*style.openers, *style.dropped, *(marker for marker, _ in style.reasoning)]
    assert not [(a, b) for a in markers for b in markers if a != b and b.startswith(a)]


def test_what_tools_return_is_no_marker_of_answers() -> None:
    assert answer_format("<think> '<response>' ~ result ~ '</response>'").dropped == ()


def test_the_template_tells_the_format() -> None:
    for template, expected in (
        ("... <tool_call> ...", ToolFormat.HERMES),
        ("<tool_call><function=", ToolFormat.QWEN_CODER),
        ("[TOOL_CALLS]", ToolFormat.MISTRAL),
        ("<|python_tag|>", ToolFormat.LLAMA),
        (OLDER["glm4"], ToolFormat.GLM4),
        ("[gMASK]<sop> <tool_call> <arg_key>", ToolFormat.GLM),
        (OLDER["internlm2"], ToolFormat.INTERNLM),
        (None, ToolFormat.JSON),
    ):
        assert format_of(template) is expected


def test_the_reference_has_every_format() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "chat.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE) == [str(style) for style in ToolFormat]
