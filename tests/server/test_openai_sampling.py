"""What OpenAI's own client says of sampling, formats and errors, whole and in streams."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pytest
from openai import OpenAI
from tests.support.servers import RunningServer

STORY = "Once upon a time"
MESSAGES: Any = [{"role": "user", "content": "Tell me a story."}]
GREEDY: Any = {"model": "any", "temperature": 0, "max_tokens": 12, "extra_body": {"ignore_eos": True}}


def chat_logprobs(client: OpenAI, **fields: Any) -> list[Any]:
    asked = {"messages": MESSAGES, "logprobs": True, **GREEDY, **fields}
    logprobs = client.chat.completions.create(**asked).choices[0].logprobs
    return list(logprobs.content) if logprobs and logprobs.content else []


def test_top_logprobs_are_the_same_in_a_stream(client: OpenAI) -> None:
    asked = {"messages": MESSAGES, "logprobs": True, "top_logprobs": 3, **GREEDY}
    whole = client.chat.completions.create(**asked).choices[0]
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(stream=True, **asked)]
    streamed = [entry for chunk in chunks if chunk.logprobs for entry in chunk.logprobs.content or ()]
    assert whole.logprobs is not None
    assert whole.logprobs.content is not None
    assert len(streamed) == len(whole.logprobs.content) == 12
    for one, other in zip(streamed, whole.logprobs.content, strict=True):
        assert (one.token, one.bytes) == (other.token, other.bytes) == (one.top_logprobs[0].token, other.bytes)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [top.token for top in one.top_logprobs] == [top.token for top in other.top_logprobs]
        assert len(one.top_logprobs) == 3


def test_a_bias_bans_and_forces(client: OpenAI, server: RunningServer) -> None:
    native = server.post("/completion", {"prompt": STORY, "n_predict": 1, "temperature": 0, "return_tokens": True})[2]
    (first,) = native["tokens"]
    plain = client.completions.create(prompt=STORY, **GREEDY).choices[0].text
    banned = client.completions.create(prompt=STORY, logit_bias={str(first): -100}, **GREEDY).choices[0].text
    assert not banned.startswith(native["content"])
    assert plain.startswith(native["content"])
    forced = client.completions.create(prompt=STORY, logit_bias={str(first): 100}, **GREEDY).choices[0].text
    assert forced == 12 * native["content"]


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
def test_a_penalty_is_minded(client: OpenAI, penalty: str) -> None:
    """At OpenAI's largest value fewer tokens come again than without."""
    again: Any = [{"role": "user", "content": "Say: the cat and the dog and the cat and the dog."}]
    came = {
        value: [one.token for one in chat_logprobs(client, messages=again, max_tokens=60, **{penalty: value})]
        for value in (0.0, 2.0)
    }
    assert len(set(came[2.0])) > len(set(came[0.0]))


def test_a_json_object_is_one(client: OpenAI) -> None:
    asked: Any = {"model": "any", "messages": MESSAGES, "max_tokens": 60, "seed": 4, "temperature": 0.7}
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    extra = {"response_format": {"type": "json_object", "schema": schema}}
    assert json.loads(client.chat.completions.create(extra_body=extra, **asked).choices[0].message.content or "")
    free: Any = {"type": "json_object"}
    # To its end it need not come; to nothing but the beginning of an object it must.
    text = client.chat.completions.create(response_format=free, **asked).choices[0].message.content or ""
    streamed = client.chat.completions.create(response_format=free, stream=True, **asked)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices) == text
    assert re.match(r"\s*\{\s*(\"|\}|$)", text)


SHAPES: list[tuple[dict[str, Any], str]] = [
    ({"regex": "(yes|no)( sir){2}"}, r"(yes|no)( sir){2}"),
    (
        {"lark": 'start: GREETING " " NAME\nGREETING: "Hello" | "Bye"\nNAME: /[A-Z][a-z]{2}/'},
        r"(Hello|Bye) [A-Z][a-z]{2}",
    ),
    ({"grammar": 'root ::= "a" [0-9] [0-9]'}, r"a[0-9]{2}"),
    ({"json_schema": {"enum": ["x", 7]}}, r"\"x\"|7"),
]


@pytest.mark.parametrize(("shape", "pattern"), SHAPES, ids=lambda value: "-".join(value))
def test_every_kind_of_grammar_has_its_field(client: OpenAI, server: RunningServer, shape: Any, pattern: str) -> None:
    asked: Any = {"model": "any", "max_tokens": 60, "seed": 2, "extra_body": shape}
    assert re.fullmatch(pattern, client.completions.create(prompt=STORY, **asked).choices[0].text.strip())
    chat = client.chat.completions.create(messages=MESSAGES, **asked).choices[0]
    assert re.fullmatch(pattern, (chat.message.content or "").strip())
    native = server.post("/completion", {"prompt": STORY, "n_predict": 60, **shape})[2]
    assert re.fullmatch(pattern, native["content"].strip())


@pytest.mark.parametrize("shape", [{"regex": "("}, {"lark": "start: missing"}, {"regex": "(?=a)"}])
def test_a_grammar_that_cannot_be_kept_is_refused(client: OpenAI, shape: dict[str, str]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="any", prompt=STORY, extra_body=shape)
    assert [caught.value.param] == list(shape)


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_an_error_in_mid_stream_is_the_clients_own(client: OpenAI, route: str) -> None:
    """The time is up when the stream has long begun: the client raises, after what came before."""
    extra = {"ignore_eos": True, "plait": {"timeout": 0.5}}
    asked: Any = {"model": "any", "max_tokens": 8000, "n": 8, "stream": True, "extra_body": extra}
    stream: Any = (
        client.chat.completions.create(messages=MESSAGES, **asked)
        if route == "chat"
        else client.completions.create(prompt=STORY, **asked)
    )
    assert next(iter(stream)).choices
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert (caught.value.code, caught.value.type) == ("deadline_exceeded", "timeout_error")


def test_another_models_name_is_answered_by_this_one(client: OpenAI) -> None:
    """As llama-server has it: there is one model, and the answer says which."""
    assert client.completions.create(prompt=STORY, **{**GREEDY, "model": "gpt-99"}).model == "plait-tales-22m-q8_0"
