"""/infill with a tiny model whose vocabulary has the tokens, in DeepSeek's spelling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.servers import RunningServer, start_server
from tests.support.tiny_llama import TinyLlama, save_gguf

from plait.tokenizer.vocabulary import LETTER_OF_BYTE

LETTERS = [LETTER_OF_BYTE[byte] for byte in range(256)]
SPECIAL = ["<s>", "</s>", "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<|file_sep|>", "<|repo_name|>"]
BOS, EOS, PREFIX, SUFFIX, MIDDLE, FILE, REPOSITORY = range(256, 256 + len(SPECIAL))
ASKED = {"n_predict": 4, "temperature": 0, "n_probs": 2, "return_tokens": True, "ignore_eos": True}


@pytest.fixture(scope="module")
def filling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    tiny = TinyLlama(vocab=257 + len(SPECIAL), context=512)
    metadata = {
        **tiny.gguf_metadata(),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*LETTERS, *SPECIAL, 2 * LETTERS[0]],
        "tokenizer.ggml.token_type": [1] * 256 + [3] * len(SPECIAL) + [1],
        "tokenizer.ggml.merges": [f"{LETTERS[0]} {LETTERS[0]}"],
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.add_bos_token": True,
    }
    file = save_gguf(tmp_path_factory.mktemp("filling") / "filling.gguf", metadata, tiny.gguf_tensors(3))
    with start_server("-m", str(file)) as running:
        yield running


def told(server: RunningServer, path: str, body: dict[str, Any]) -> tuple[int, Any, Any]:
    """How many tokens the prompt had, and what follows it: in a random model no other prompt has these numbers."""
    status, _, found = server.post(path, {**ASKED, **body})
    assert status == 200, found
    chances = [[one["logprob"] for one in entry["top_logprobs"]] for entry in found["completion_probabilities"]]
    return found["tokens_evaluated"], found["tokens"], chances


def same(one: tuple[int, Any, Any], other: tuple[int, Any, Any]) -> bool:
    return one[:2] == other[:2] and all(a == pytest.approx(b, abs=1e-4) for a, b in zip(one[2], other[2], strict=True))


def test_the_prompt_is_llama_cpps(filling: RunningServer) -> None:
    asked = {"input_prefix": "def f", "prompt": "(x", "input_suffix": "return x"}
    ids = [BOS, PREFIX, *b"def f(x", SUFFIX, *b"return x", MIDDLE]
    found = told(filling, "/infill", asked)
    assert same(found, told(filling, "/completion", {"prompt": ids}))
    assert not same(found, told(filling, "/completion", {"prompt": [*ids[:1], *ids[2:], PREFIX]}))


def test_the_clients_text_is_text(filling: RunningServer) -> None:
    """Code about such models has their tokens in it."""
    asked = {"input_prefix": "a<｜fim▁hole｜>", "input_suffix": "</s>b"}
    ids = [BOS, PREFIX, *"a<｜fim▁hole｜>".encode(), SUFFIX, *b"</s>b", MIDDLE]
    assert same(told(filling, "/infill", asked), told(filling, "/completion", {"prompt": ids}))


def test_other_files_come_before(filling: RunningServer) -> None:
    extra = [{"text": "x = 1", "filename": "x.py"}, {"text": "y"}]
    asked = {"input_prefix": "a", "input_suffix": "b", "input_extra": extra}
    ids = [REPOSITORY, *b"myproject\n", FILE, *b"x.py\nx = 1", FILE, *b"tmp\ny", FILE, *b"filename\n"]
    ids += [BOS, PREFIX, *b"a", SUFFIX, *b"b", MIDDLE]
    assert same(told(filling, "/infill", asked), told(filling, "/completion", {"prompt": ids}))
    status, _, answer = filling.post("/infill", {**asked, "input_extra": [{"text": "a", "path": "b"}]})
    assert (status, answer["error"]["param"]) == (400, "input_extra.0.path")


def test_a_stream_of_it(filling: RunningServer) -> None:
    asked = {"input_prefix": "a", "input_suffix": "b"}
    events = filling.events("/infill", {**ASKED, **asked})
    assert [token for event in events for token in event["tokens"]] == told(filling, "/infill", asked)[1]
