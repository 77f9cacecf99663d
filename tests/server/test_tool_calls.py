"""Tool calls and reasoning through the official client. A grammar forces what the model writes; a call that must be
made is forced by the server itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from tests.support.servers import start_server

ARGUMENTS = '{"city": "Bern"}'
CALL = f'{{"name": "weather", "arguments": {ARGUMENTS}}}'
PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Bern", "Rome"]}}, "required": ["city"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": {**PARAMETERS, "additionalProperties": False}}}
]
MESSAGES: Any = [{"role": "user", "content": "What is the weather?"}]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if tools %}Write <tool_call>JSON</tool_call>: {{ tools | tojson }}{% endif %}"
    "<|assistant|>{% if thinking %}<think>\n{% elif thinking is defined %}<think></think>{% endif %}"
)


@pytest.fixture(scope="module")
def hermes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """A server whose template speaks of <tool_call> and <think>."""
    file: Path = tmp_path_factory.mktemp("template") / "hermes.jinja"
    file.write_text(TEMPLATE)
    with (
        start_server("--chat-template", str(file)) as running,
        OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def answer(client: OpenAI, text: str | None, **fields: Any) -> tuple[Any, str]:
    """(the message, why it ended) of an answer that is `text`; whole and streamed are the same."""
    extra: dict[str, Any] = fields.pop("extra_body", {})
    if text is not None:
        extra["grammar"] = f"root ::= {json.dumps(text)}"
    asked = {"model": "m", "messages": MESSAGES, "max_tokens": 200, "seed": 1, "extra_body": extra, **fields}
    whole = client.chat.completions.create(**asked).choices[0]
    message: dict[str, Any] = {"content": "", "reasoning": "", "calls": []}
    reason = None
    for chunk in client.chat.completions.create(stream=True, **asked):
        delta: Any = chunk.choices[0].delta
        reason = chunk.choices[0].finish_reason or reason
        message["content"] += delta.content or ""
        message["reasoning"] += getattr(delta, "reasoning_content", None) or ""
        for call in delta.tool_calls or []:
            if call.id:
                message["calls"].append([call.function.name, ""])
            message["calls"][call.index][1] += call.function.arguments or ""
    calls = [[call.function.name, call.function.arguments] for call in whole.message.tool_calls or []]
    assert message["content"] == (whole.message.content or "")
    assert message["reasoning"] == (getattr(whole.message, "reasoning_content", None) or "")
    assert message["calls"] == calls
    assert reason == whole.finish_reason
    return whole.message, whole.finish_reason


def test_calls_become_tool_calls(hermes: OpenAI) -> None:
    text = f"I look.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>"
    message, reason = answer(hermes, text, tools=TOOLS)
    assert message.content == "I look.\n"
    assert [(c.function.name, c.function.arguments) for c in message.tool_calls] == [("weather", ARGUMENTS)] * 2
    assert len({call.id for call in message.tool_calls}) == 2
    assert reason == "tool_calls"
    message, _ = answer(hermes, text, tools=TOOLS, parallel_tool_calls=False)
    assert len(message.tool_calls) == 1


def test_without_tools_the_same_text_is_text(hermes: OpenAI) -> None:
    text = f"<tool_call>{CALL}</tool_call>"
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        message, reason = answer(hermes, text, **fields)
        assert (message.content, message.tool_calls, reason) == (text, None, "stop")


def test_reasoning_is_a_field_of_its_own(hermes: OpenAI) -> None:
    message, _ = answer(hermes, "<think>\nHm.\n</think>\n\nYes.")
    assert (message.reasoning_content, message.content) == ("Hm.", "Yes.")


@pytest.mark.parametrize("thinking", [True, False])
def test_the_template_may_begin_the_reasoning(hermes: OpenAI, thinking: bool) -> None:
    extra = {"chat_template_kwargs": {"thinking": thinking}}
    message, _ = answer(hermes, "Hm.\n</think>\n\nYes.", extra_body=extra)
    if thinking:
        assert (message.reasoning_content, message.content) == ("Hm.", "Yes.")
    else:
        assert message.content == "Hm.\n</think>\n\nYes."


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("thinking", [True, False])
def test_a_call_that_must_be_made_is_made(hermes: OpenAI, choice: Any, thinking: bool) -> None:
    extra = {"chat_template_kwargs": {"thinking": thinking}}
    message, reason = answer(hermes, None, tools=TOOLS, tool_choice=choice, extra_body=extra)
    (call,) = message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Bern", "Rome")
    assert (message.content, reason) == (None, "tool_calls")


def test_a_strict_function_is_held_to_its_schema_or_refused(hermes: OpenAI) -> None:
    strict: Any = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    message, _ = answer(hermes, None, tools=strict, tool_choice="required")
    assert json.loads(message.tool_calls[0].function.arguments)["city"] in ("Bern", "Rome")
    with pytest.raises(BadRequestError, match="needs tool_choice") as caught:
        answer(hermes, None, tools=strict)
    assert caught.value.param == "tools.0.function.strict"


def test_an_answer_with_a_schema_is_no_reasoning(hermes: OpenAI) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [17]}}}
    extra = {"chat_template_kwargs": {"thinking": True}}
    message, _ = answer(hermes, None, response_format=schema, extra_body=extra)
    assert message.content.strip() == "17"


def test_a_call_and_its_result_go_back(hermes: OpenAI) -> None:
    call = {"id": "x", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    history: Any = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x", "content": "sunny"},
    ]
    message, _ = answer(hermes, "Sunny.", messages=history, tools=TOOLS)
    assert message.content == "Sunny."


def test_the_end_of_the_prompt_can_be_chosen(hermes: OpenAI) -> None:
    asked: Any = {"model": "m", "messages": [*MESSAGES, {"role": "assistant", "content": "It is"}], "max_tokens": 1}
    tokens = {
        name: hermes.chat.completions.create(extra_body=extra, **asked).usage.prompt_tokens  # type: ignore[union-attr]
        for name, extra in {
            "prefill": {},
            "continued": {"continue_final_message": True},
            "new": {"continue_final_message": False},
        }.items()
    }
    assert tokens["continued"] < tokens["new"]
    assert tokens["prefill"] < tokens["new"]
    with pytest.raises(BadRequestError, match="without a generation prompt"):
        hermes.chat.completions.create(
            extra_body={"continue_final_message": True, "add_generation_prompt": True}, **asked
        )
