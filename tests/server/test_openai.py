"""OpenAI's routes through OpenAI's own client."""

from __future__ import annotations

import concurrent.futures
import json
from typing import Any

import openai
import pytest
from openai import OpenAI
from tests.support.servers import RunningServer

MODEL = "any"
STORY = "Once upon a time"


def test_models(client: OpenAI) -> None:
    listed = client.models.list().data
    assert [one.id for one in listed] == ["plait-tales-22m-q8_0"]
    assert client.models.retrieve(listed[0].id).owned_by == "plait"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_a_completion_is_the_same_whole_and_streamed(client: OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt=STORY, max_tokens=24, temperature=0, seed=1)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24
    pieces = list(client.completions.create(model=MODEL, prompt=STORY, max_tokens=24, temperature=0, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert pieces[-1].choices[0].finish_reason == "length"


def test_several_prompts_and_samples(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 8, "n": 2, "seed": 5}
    found = client.completions.create(prompt=["The cat", "The dog"], **asked)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    streamed = ["", "", "", ""]
    for piece in client.completions.create(prompt=["The cat", "The dog"], stream=True, **asked):
        streamed[piece.choices[0].index] += piece.choices[0].text
    assert streamed == [choice.text for choice in found.choices]


def test_echo_and_token_ids(client: OpenAI, server: RunningServer) -> None:
    ids = server.post("/tokenize", {"content": STORY, "add_special": True})[2]["tokens"]
    by_id = client.completions.create(model=MODEL, prompt=ids, max_tokens=5, temperature=0, echo=True)
    by_text = client.completions.create(model=MODEL, prompt=STORY, max_tokens=5, temperature=0, echo=True)
    assert by_text.choices[0].text.startswith(STORY)
    assert by_id.choices[0].text.endswith(by_text.choices[0].text.removeprefix(STORY))


def test_logprobs(client: OpenAI) -> None:
    found = client.completions.create(model=MODEL, prompt=STORY, max_tokens=4, temperature=0, logprobs=2)
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert "".join(logprobs.tokens) == found.choices[0].text
    assert all(value <= 0 for value in logprobs.token_logprobs)
    assert logprobs.top_logprobs is not None
    assert all(len(top) in (2, 3) for top in logprobs.top_logprobs)


def test_a_stop_string_ends_the_text_before_it(client: OpenAI) -> None:
    plain = client.completions.create(model=MODEL, prompt=STORY, max_tokens=40, temperature=0).choices[0].text
    stop = plain.split()[6]
    found = client.completions.create(model=MODEL, prompt=STORY, max_tokens=40, temperature=0, stop=[stop])
    assert found.choices[0].text == plain[: plain.index(stop)]
    assert found.choices[0].finish_reason == "stop"


def test_usage_of_a_stream(client: OpenAI) -> None:
    stream = client.completions.create(
        model=MODEL, prompt=STORY, max_tokens=6, stream=True, stream_options={"include_usage": True}
    )
    usages = [piece.usage for piece in stream]
    assert all(usage is None for usage in usages[:-1])
    assert usages[-1] is not None
    assert usages[-1].completion_tokens == 6


def test_chat_is_the_same_whole_and_streamed(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "max_completion_tokens": 30,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.role == "assistant"
    pieces = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == whole.choices[0].message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(pieces[-1].usage, name) == getattr(whole.usage, name) > 0
    assert all(piece.usage is None for piece in pieces[:-1])


def test_chat_logprobs_and_samples(client: OpenAI) -> None:
    found = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        logprobs=True,
        top_logprobs=3,
        n=2,
        max_tokens=5,
        seed=3,
    )
    assert len(found.choices) == 2
    for choice in found.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert all(len(entry.top_logprobs) == 3 for entry in choice.logprobs.content)


def test_the_rest_of_an_answer_that_was_begun(client: OpenAI) -> None:
    begun = "Once there was a"
    found = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": begun}],
        max_tokens=8,
        temperature=0,
    )
    assert found.choices[0].message.content
    assert not found.choices[0].message.content.startswith(begun)


def test_cached_tokens_are_told(client: OpenAI) -> None:
    prompt = "A long beginning that both share, word for word, to fill some pages of memory. " * 4
    client.completions.create(model=MODEL, prompt=prompt, max_tokens=1)
    usage = client.completions.create(model=MODEL, prompt=prompt, max_tokens=1).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens_details.cached_tokens or 0) > usage.prompt_tokens / 2


def test_service_fields_change_no_token(client: OpenAI) -> None:
    plain = client.completions.create(model=MODEL, prompt=STORY, max_tokens=8, seed=9)
    served = client.completions.create(
        model=MODEL,
        prompt=STORY,
        max_tokens=8,
        seed=9,
        extra_body={"plait": {"priority": "high", "timeout": 60, "cache": "off", "tenant": "me"}},
        extra_headers={"X-Plait-Salt": "mine"},
    )
    assert served.choices[0].text == plain.choices[0].text
    assert served.usage is not None
    assert served.usage.prompt_tokens_details is not None
    assert served.usage.prompt_tokens_details.cached_tokens == 0


def test_errors_are_the_clients_own(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=STORY, suffix="end")
    assert caught.value.param == "suffix"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=STORY, temperature=-1)
    assert caught.value.param == "temperature"
    assert json.loads(caught.value.response.text)["error"]["type"] == "invalid_request_error"


def test_usage_tells_how_it_was_served(client: OpenAI) -> None:
    """Beside OpenAI's fields, in streams too."""
    alone = client.completions.create(model=MODEL, prompt=STORY, max_tokens=24, extra_body={"ignore_eos": True}).usage
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": STORY}],
            max_tokens=24,
            n=4,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
    )
    together = chunks[-1].usage
    assert alone is not None
    assert together is not None
    one, four = alone.model_extra["plait"], together.model_extra["plait"]
    assert set(one) == set(four) == {"queue_ms", "mean_batch_tokens", "timings"}
    assert 0 <= one["queue_ms"] < 10_000
    # A step of the prompt, then 23 of one token; with four samples, of four.
    assert 1 <= one["mean_batch_tokens"] < 3
    assert four["mean_batch_tokens"] > 3.5


def test_the_time_in_the_queue_is_told(server: RunningServer) -> None:
    """Of sixty at once some wait for a step that takes them in."""
    body = {"prompt": "Once", "n_predict": 100, "ignore_eos": True, "cache_prompt": False}
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        answers = [answer for _, _, answer in pool.map(lambda _: server.post("/completion", body), range(60))]
    queued = sorted(answer["plait"]["queue_ms"] for answer in answers)
    assert queued[-1] > 2 * queued[0] > 0, queued
    assert max(answer["plait"]["mean_batch_tokens"] for answer in answers) > 4
