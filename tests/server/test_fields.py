"""What a body may say: labels and empty fields that clients send are taken, what contradicts itself or would be ignored
is a 400 that names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import OpenAI
from tests.support.servers import RunningServer

COMPLETIONS, CHAT, NATIVE = "/v1/completions", "/v1/chat/completions", "/completion"
USER = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object"}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
FUNCTION = {"name": "f", "parameters": SCHEMA}


def chat(**fields: Any) -> tuple[str, Any]:
    return CHAT, {"messages": USER, "max_tokens": 1, **fields}


def message(**fields: Any) -> tuple[str, Any]:
    return chat(messages=[*USER, {"role": "assistant", "content": "Yes", **fields}, *USER])


def tool(function: Any = FUNCTION, **fields: Any) -> tuple[str, Any]:
    return chat(tools=[{"type": "function", "function": function}], **fields)


REFUSED: list[tuple[tuple[str, Any], str]] = [
    # what contradicts itself
    ((COMPLETIONS, {"prompt": "a", "grammar": 'root ::= "a"', "json_schema": SCHEMA}), "json_schema"),
    ((COMPLETIONS, {"prompt": "a", "regex": "a", "lark": 'start: "a"'}), "lark"),
    ((NATIVE, {"prompt": "a", "grammar": 'root ::= "a"', "json_schema": SCHEMA}), "json_schema"),
    ((NATIVE, {"prompt": "a", "n_predict": 3, "max_tokens": 4}), "n_predict"),
    (chat(grammar='root ::= "a"', response_format=FORMAT), "response_format"),
    (chat(json_schema=SCHEMA, response_format={"type": "json_object"}), "response_format"),
    (chat(response_format={"type": "json_object", "json_schema": {"schema": SCHEMA}}), "response_format.json_schema"),
    (chat(response_format={"type": "text", "schema": SCHEMA}), "response_format.schema"),
    (chat(response_format={**FORMAT, "schema": SCHEMA}), "response_format.schema"),
    (chat(max_completion_tokens=2), "max_completion_tokens"),
    (chat(stream_options={"include_usage": True}), "stream_options"),
    ((COMPLETIONS, {"prompt": "a", "stream_options": {"include_usage": True}}), "stream_options"),
    # fields that nobody knows, within others
    (chat(response_format={"type": "json_schema", "json_schema": {"schema": {}, "shape": 1}}),
     "response_format.json_schema.shape"),
    (tool({**FUNCTION, "returns": 1}), "tools.0.function.returns"),
    (chat(tools=[{"type": "function", "function": FUNCTION, "more": 1}]), "tools.0.more"),
    (tool(tool_choice={"type": "function", "function": {"name": "f", "more": 1}}), "tool_choice"),
    (chat(messages=[{"role": "user", "content": [{"type": "text", "text": "a", "more": 1}]}]),
     "messages.0.content.0.more"),
    (message(tool_calls=[{"id": "x", "function": {"name": "f", "arguments": "{}"}, "more": 1}]),
     "messages.1.tool_calls.0.more"),
    (message(tool_calls=[{"id": "x", "function": {"name": "f", "arguments": "{}", "more": 1}}]),
     "messages.1.tool_calls.0.function.more"),
    (message(tool_calls=[{"id": "x", "type": "custom", "function": {"name": "f", "arguments": "{}"}}]),
     "messages.1.tool_calls.0.type"),
    # what would be ignored
    (message(refusal="No."), "messages.1.refusal"),
    (message(annotations=[{"type": "url_citation"}]), "messages.1.annotations"),
    (message(audio={"id": "a"}), "messages.1.audio"),
    (message(function_call={"name": "f", "arguments": ""}), "messages.1.function_call"),
    (chat(stream=True, stream_options={"include_obfuscation": True}), "stream_options.include_obfuscation"),
    (chat(store=True), "store"),
    (chat(reasoning_effort="high"), "reasoning_effort"),
    (chat(service_tier="flex"), "service_tier"),
    (chat(functions=[FUNCTION]), "functions"),
    (chat(modalities=["text", "audio"]), "modalities"),
    (chat(dynatemp_range=0.5), "dynatemp_range"),
    (tool({**FUNCTION, "strict": True}), "tools.0.function.strict"),
    ((NATIVE, {"prompt": "a", "t_max_predict_ms": 100}), "t_max_predict_ms"),
    ((NATIVE, {"prompt": "a", "seed": -2}), "seed"),
    ((COMPLETIONS, {"prompt": "a", "n_keep": 1}), "n_keep"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "param"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_no_field_is_ignored(server: RunningServer, asked: tuple[str, Any], param: str) -> None:
    status, _, answer = server.post(*asked)
    assert status == 400, answer
    assert answer["error"]["param"] == param, answer


TAKEN: list[tuple[str, Any]] = [
    message(refusal=None, annotations=[], audio=None, function_call=None, tool_calls=[]),
    message(refusal=None, annotations=None, tool_calls=None, reasoning_content=None),
    chat(user="u", safety_identifier="s", prompt_cache_key="k", metadata={"a": "b"}, store=False),
    chat(service_tier="auto", modalities=["text"], functions=None, function_call=None, audio=None, prediction=None),
    chat(max_completion_tokens=1, response_format={"type": "text"}, tools=[], stream_options=None, seed=-1),
    chat(model="gpt-99", grammar="", json_schema=None, stream=True, stream_options={"include_obfuscation": False}),
    tool({**FUNCTION, "strict": False, "description": None}),
    tool({**FUNCTION, "strict": True}, tool_choice="none"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 1, "user": "u", "suffix": "", "best_of": 1, "model": "any"}),
    (NATIVE, {"prompt": "a", "n_predict": 1, "n_keep": 0, "min_keep": 0, "dynatemp_range": 0.0, "lora": [],
              "dynatemp_exponent": 1.0, "post_sampling_probs": False, "response_fields": [], "t_max_predict_ms": 0,
              "return_progress": False, "seed": -1, "id_slot": -1}),
]  # fmt: skip


@pytest.mark.parametrize("asked", TAKEN, ids=lambda asked: "-".join(asked[1]))
def test_what_asks_for_nothing_is_taken(server: RunningServer, asked: tuple[str, Any]) -> None:
    status, _, answer = server.send("POST", asked[0], json.dumps(asked[1]).encode())
    assert status == 200, answer


def test_an_answer_goes_back_as_the_client_has_it(client: OpenAI) -> None:
    """`model_dump()` writes all that a message may have, null where it has not."""
    asked: Any = {"model": "m", "max_tokens": 3, "temperature": 0}
    first = client.chat.completions.create(messages=USER, **asked).choices[0].message.model_dump()
    assert {"refusal", "annotations", "audio", "function_call", "tool_calls"} <= set(first)
    second = client.chat.completions.create(messages=[*USER, first, *USER], **asked)
    assert second.choices[0].message.role == "assistant"
