"""What answers are made of: offsets of log-probabilities, counts and timings, embeddings, the end of /completion."""

from __future__ import annotations

import base64
from array import array
from typing import Any

import openai
import pytest
from openai import OpenAI
from tests.support.servers import RunningServer

MODEL = "any"
STORY = "Once upon a time"
HALF = "Zoë and 🦊"  # characters of several tokens each


def offsets_fit(text: str, logprobs: Any) -> None:
    """Each token that is no part of a character stands in the text where its offset says."""
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        if not token.startswith("bytes:") and not token.startswith("<"):
            found = text[offset : offset + len(token)]
            assert found == token or token.lstrip() == text[: offset + len(token) - 1], (token, found)


@pytest.mark.parametrize("prompt", [STORY, HALF])
def test_offsets_count_the_text(client: OpenAI, prompt: str) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": prompt, "max_tokens": 6, "temperature": 0}
    asked |= {"echo": True, "logprobs": 2, "extra_body": {"ignore_eos": True}}
    choice = client.completions.create(**asked).choices[0]
    logprobs: Any = choice.logprobs
    assert logprobs.text_offset[:2] == [0, 0]  # the begin token is not in the text
    offsets_fit(choice.text, logprobs)
    pieces = list(client.completions.create(stream=True, **asked))
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        streamed = [value for piece in pieces for value in getattr(piece.choices[0].logprobs, name)]
        assert streamed == getattr(logprobs, name), name


def test_parts_of_characters_are_told_apart(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": HALF, "max_tokens": 0, "echo": True, "logprobs": 0}
    logprobs: Any = client.completions.create(**asked).choices[0].logprobs
    parts = [i for i, token in enumerate(logprobs.tokens) if token.startswith("bytes:")]
    assert len(parts) >= 4
    assert logprobs.tokens[parts[-1]] == "bytes:\\x8a"
    assert {logprobs.text_offset[i] for i in parts[-4:]} == {HALF.index("🦊")}


def test_offsets_of_a_stream_that_holds_text_back(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": STORY, "max_tokens": 24, "temperature": 0, "logprobs": 0}
    plain = client.completions.create(**asked).choices[0].text
    asked["stop"] = [plain[:-1] + "never", plain.split()[2] + " never"]
    whole: Any = client.completions.create(**asked).choices[0]
    streamed: list[int] = []
    for piece in client.completions.create(stream=True, **asked):
        streamed += piece.choices[0].logprobs.text_offset  # type: ignore[union-attr]
    assert streamed == whole.logprobs.text_offset
    offsets_fit(whole.text, whole.logprobs)


def test_max_tokens_null_is_the_default(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": STORY, "extra_body": {"ignore_eos": True}}
    for most in ({}, {"max_tokens": None}):
        usage = client.completions.create(**asked, **most).usage
        assert usage is not None
        assert usage.completion_tokens == 16


def test_timings_are_in_the_usage(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 5, "n": 2, "extra_body": {"ignore_eos": True}}
    prompts = ["The cat", "The dog in the yard"]
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    whole = client.completions.create(prompt=prompts, **asked)
    streamed = list(client.completions.create(prompt=prompts, **asked, **options))[-1]
    chat = client.chat.completions.create(messages=[{"role": "user", "content": STORY}], **asked)
    for answer in (whole, streamed, chat):
        usage: Any = answer.usage
        timings = usage.plait["timings"]
        assert timings == answer.timings  # type: ignore[union-attr]
        assert timings["predicted_n"] == usage.completion_tokens
        assert timings["prompt_n"] + timings["cache_n"] == usage.prompt_tokens
        assert timings["prompt_ms"] > 0 < timings["predicted_ms"]
        steps = usage.completion_tokens - len(whole.choices if answer is not chat else chat.choices)
        assert timings["predicted_per_second"] == pytest.approx(1000 * steps / timings["predicted_ms"])


def test_embeddings_through_the_client(client: OpenAI, server: RunningServer) -> None:
    """The client asks for base64 unless told otherwise."""
    texts = [STORY, "Another text"]
    found = client.embeddings.create(model=MODEL, input=texts)
    assert [one.index for one in found.data] == [0, 1]
    plain = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    packed = client.embeddings.create(model=MODEL, input=texts, encoding_format="base64")
    raw: Any = packed.data[0].embedding
    unpacked = array("f", base64.b64decode(raw)).tolist() if isinstance(raw, str) else raw
    assert plain.data[0].embedding == pytest.approx(found.data[0].embedding)
    assert unpacked == pytest.approx(plain.data[0].embedding)
    assert sum(value * value for value in plain.data[0].embedding) == pytest.approx(1, abs=1e-4)
    ids = server.post("/tokenize", {"content": STORY, "add_special": True})[2]["tokens"]
    by_ids = client.embeddings.create(model=MODEL, input=[ids, ids], encoding_format="float")
    one = client.embeddings.create(model=MODEL, input=ids, encoding_format="float")
    assert by_ids.data[1].embedding == pytest.approx(one.data[0].embedding, abs=1e-5)
    assert one.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-5)
    assert by_ids.usage.prompt_tokens == 2 * len(ids) == by_ids.usage.total_tokens
    last = client.embeddings.create(model=MODEL, input=STORY, extra_body={"pooling": "last"})
    assert last.data[0].embedding != pytest.approx(found.data[0].embedding, abs=1e-3)


def test_embeddings_are_served_as_asked(client: OpenAI, server: RunningServer) -> None:
    served = {"plait": {"priority": "high", "cache": "off", "timeout": 60}}
    usage: Any = client.embeddings.create(model=MODEL, input=STORY, extra_body=served).usage
    assert usage.plait["queue_ms"] >= 0
    assert usage.plait["timings"]["prompt_n"] == usage.prompt_tokens
    status, _, native = server.post("/embedding", {"content": STORY, **served})
    assert status == 200
    assert native[0]["plait"]["timings"]["prompt_n"] == native[0]["tokens_evaluated"] == usage.prompt_tokens
    for route, body in (("/v1/embeddings", {"input": STORY}), ("/embedding", {"content": STORY})):
        answer = server.post(route, {**body, "plait": {"priority": "now"}})
        assert (answer[0], answer[2]["error"]["param"]) == (400, "plait.priority")


@pytest.mark.parametrize("given", ["", ["a", ""], [[1], []]])
def test_an_empty_text_has_no_embedding(client: OpenAI, server: RunningServer, given: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input=given)
    assert caught.value.param == "input"
    assert server.post("/embedding", {"content": given})[2]["error"]["param"] == "content"


def test_a_new_line_is_told(server: RunningServer) -> None:
    for text, expected in (("a\\nb", True), ("ab", False)):
        body = {"prompt": STORY, "grammar": f'root ::= "{text}"', "n_predict": 20}
        assert server.post("/completion", body)[2]["has_new_line"] is expected
        events = server.events("/completion", body)
        assert events[-1]["has_new_line"] is expected
