"""llama.cpp's routes, and what is said about the server itself."""

from __future__ import annotations

import json

from tests.support.servers import RunningServer

STORY = "Once upon a time"


def test_completion_whole_and_streamed(server: RunningServer) -> None:
    asked = {"prompt": STORY, "n_predict": 12, "temperature": 0, "return_tokens": True}
    status, _, whole = server.post("/completion", asked)
    assert status == 200
    assert whole["stop_type"] == "limit"
    assert whole["timings"]["predicted_n"] == len(whole["tokens"]) == 12
    _, _, raw = server.send("POST", "/completion", json.dumps({**asked, "stream": True}).encode())
    events = [json.loads(line.removeprefix("data: ")) for line in raw.decode().split("\n\n") if line]
    assert "".join(event["content"] for event in events) == whole["content"]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["tokens_predicted"] == 12


def test_probabilities(server: RunningServer) -> None:
    found = server.post("/completion", {"prompt": STORY, "n_predict": 2, "n_probs": 3, "temperature": 0})[2]
    for entry in found["completion_probabilities"]:
        assert len(entry["top_logprobs"]) == 3
        assert entry["id"] == entry["top_logprobs"][0]["id"]


def test_a_stop_word_is_named(server: RunningServer) -> None:
    plain = server.post("/completion", {"prompt": STORY, "n_predict": 30, "temperature": 0})[2]["content"]
    word = plain.split()[5]
    found = server.post("/completion", {"prompt": STORY, "n_predict": 30, "temperature": 0, "stop": [word]})[2]
    assert (found["stop_type"], found["stopping_word"]) == ("word", word)


def test_tokens_there_and_back(server: RunningServer) -> None:
    ids = server.post("/tokenize", {"content": "Hello there, friend"})[2]["tokens"]
    assert server.post("/detokenize", {"tokens": ids})[2]["content"].strip() == "Hello there, friend"
    pieces = server.post("/tokenize", {"content": "Hello there", "with_pieces": True})[2]["tokens"]
    assert "".join(piece["piece"] for piece in pieces).strip() == "Hello there"


def test_template_props_slots_metrics(server: RunningServer) -> None:
    prompt = server.post("/apply-template", {"messages": [{"role": "user", "content": "Hi there"}]})[2]["prompt"]
    assert "Hi there" in prompt
    props = json.loads(server.get("/props")[2])
    assert props["total_slots"] >= 1
    assert props["model_alias"] == "plait-tales-22m-q8_0"
    server.wait_idle()
    assert json.loads(server.get("/slots")[2]) == []
    text = server.get("/metrics")[2].decode()
    assert "plait_generated_tokens_total" in text
    assert "plait_time_to_first_token_seconds_bucket" in text


def test_infill_needs_its_tokens(server: RunningServer) -> None:
    status, _, found = server.post("/infill", {"input_prefix": "a", "input_suffix": "b"})
    assert status == 501
    assert "filling in" in found["error"]["message"]


def test_health_status_and_pages(server: RunningServer) -> None:
    status, _, body = server.get("/health")
    assert (status, json.loads(body)["status"]) == (200, "ok")
    assert server.status()["info"]["architecture"] == "llama"
    page = server.get("/")
    assert page[0] == 200
    assert b"<!doctype html>" in page[2][:200].lower()
    described = json.loads(server.get("/openapi.json")[2])
    assert "/v1/chat/completions" in described["paths"]


def test_request_ids_are_given_and_kept(server: RunningServer) -> None:
    assert server.get("/health")[1]["x-request-id"].startswith("req-")
    assert server.get("/health", {"X-Request-Id": "mine-1"})[1]["x-request-id"] == "mine-1"
    assert server.get("/health", {"X-Request-Id": "not sound"})[1]["x-request-id"].startswith("req-")
