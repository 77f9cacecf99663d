"""Tokenizers from GGUF metadata: what is special, and an error that names file, key and reason for what is damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import ModelNotFoundError, PlaitError, TokenizerError, UnsupportedModelError
from plait.formats.open import open_model
from plait.tokenizer import Tokenizer
from plait.tokenizer.fim import FimToken

GOLDENS = Path(__file__).parent.parent / "golden" / "tokenizers"
KEY = "tokenizer.ggml."


def metadata(name: str, **replaced: object) -> dict[str, object]:
    """Keys with the value None are left out."""
    values = dict(open_model(GOLDENS / f"{name}.gguf").metadata) | {KEY + key: v for key, v in replaced.items()}
    return {key: value for key, value in values.items() if value is not None}


def load(values: dict[str, object]) -> Tokenizer:
    return Tokenizer.from_metadata("model.gguf", values)


def tiny(texts: list[str], **more: object) -> dict[str, object]:
    """A byte-level tokenizer of `texts` without merges."""
    return {KEY + key: value for key, value in {"model": "gpt2", "tokens": texts, "merges": [], **more}.items()}


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "no tokenizer": ("byte_level", {"model": None}, r"tokenizer\.ggml\.model: is missing"),
    "no tokens": ("byte_level", {"tokens": None}, r"tokenizer\.ggml\.tokens: is missing or empty"),
    "empty tokens": ("byte_level", {"tokens": []}, r"tokenizer\.ggml\.tokens: is missing or empty"),
    "tokens of numbers": ("byte_level", {"tokens": np.arange(5)}, r"tokenizer\.ggml\.tokens: element 0 is 0"),
    "tokens no array": ("byte_level", {"tokens": "abc"}, r"tokenizer\.ggml\.tokens: is of type str"),
    "the same token twice": ("byte_level", {"tokens": ["a", "b", "a"]}, r"tokens: 'a' occurs more than once"),
    "too few types": ("byte_level", {"token_type": np.ones(7, np.int32)}, r"token_type: has 7 elements for \d+ tokens"),
    "types no numbers": ("space_mark", {"token_type": ["x"] * 985}, r"token_type: "),
    "too few scores": ("sentencepiece", {"scores": [0.0]}, r"scores: has 1 elements for \d+ tokens"),
    "no merges": ("byte_level", {"merges": None}, r"tokenizer\.ggml\.merges: is missing"),
    "half a merge": ("byte_level", {"merges": ["ab"]}, r"merges: merge 0 is 'ab'; two tokens"),
    "merge of unknown": (
        "byte_level",
        {"merges": ["a b", "qqq x"]},
        r"merges: merge 0, 'a' with 'b', needs .* 'ab'|'qqq'",
    ),
    "text for an id": ("byte_level", {"bos_token_id": "one"}, r"bos_token_id: is 'one'; a value of type int"),
    "number for a flag": ("byte_level", {"add_bos_token": 1}, r"add_bos_token: is 1; a value of type bool"),
}


@pytest.mark.parametrize(("name", "replaced", "reason"), BAD.values(), ids=BAD.keys())
def test_damage_is_named(name: str, replaced: dict[str, Any], reason: str) -> None:
    with pytest.raises(TokenizerError, match="model.gguf: .*(" + reason.removeprefix(r"tokenizer\.ggml\.") + ")"):
        load(metadata(name, **replaced))


def test_unknown_kinds_are_named_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match="'bert'; supported kinds are llama, gpt2, gemma4"):
        load(metadata("byte_level", model="bert"))
    with pytest.raises(UnsupportedModelError, match=r"'novel', which is not known; known are .*llama-bpe.*qwen2"):
        load(metadata("byte_level", pre="novel"))


def test_what_is_not_there() -> None:
    with pytest.raises(ModelNotFoundError, match="no such file"):
        Tokenizer.load("/nowhere/model.gguf")


keys = st.sampled_from(["model", "pre", "tokens", "token_type", "scores", "merges", "bos_token_id", "eos_token_id"])
short = st.text(max_size=3)
values = st.one_of(st.none(), st.integers(-5, 5), short, st.lists(st.one_of(st.integers(), short)))


@given(st.dictionaries(keys, values))
def test_whatever_the_metadata_the_error_is_ours(replaced: dict[str, object]) -> None:
    damaged = tiny(["a", "b", "ab"]) | {KEY + key: value for key, value in replaced.items()}
    try:
        tokenizer = load(damaged)
    except PlaitError:  # any other error fails the test
        return
    tokenizer.decode(tokenizer.encode("ab <ab>"))


def test_characters_without_tokens_are_dropped_but_keep_their_place() -> None:
    tokenizer = load(tiny(["a", "b", "ab"], merges=["a b"]))
    assert tokenizer.encode("ab") == [2]
    assert tokenizer.encode("acb") == [0, 1]  # as llama.cpp has it: c is lost, but keeps a and b apart


def test_lone_surrogates_count_as_the_replacement_character() -> None:
    for name in ("byte_level", "sentencepiece", "space_mark"):
        tokenizer = load(metadata(name))
        assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")
        assert tokenizer.encode("\udc80\U0001f600") == tokenizer.encode("\ufffd\U0001f600")


def test_numpy_arrays_and_lists_are_the_same() -> None:
    plain = metadata("sentencepiece")
    listed = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in plain.items()}
    assert any(isinstance(value, np.ndarray) for value in plain.values())
    assert load(plain).fingerprint() == load(listed).fingerprint()


@pytest.mark.parametrize(
    ("texts", "more", "expected"),
    [
        (["a", "<|im_end|>", "<|endoftext|>"], {"eos_token_id": 2}, {1, 2}),
        (["a", "b", "c"], {"eos_token_id": 2, "eot_token_id": 1, "eom_token_id": 0}, {0, 1, 2}),
        (["a", "<|fim_pad|>", "<|fim_prefix|>", "<|file_sep|>"], {}, {1, 3}),
        (["a", "<|end|>", "<|return|>", "<|call|>"], {}, {2, 3}),
        (["a", "<|end|>", "<|return|>"], {}, {1, 2}),
        (["a", "</s>", "<|tool_response>"], {}, {2}),
        (["<|endoftext|>", "<|user|>", "<|observation|>"], {"eos_token_id": 0, "eot_token_id": 1}, {0, 1, 2}),  # GLM-4
        (["</s>", "<|im_end|>", "<|action_end|>"], {"eos_token_id": 0}, {0, 1}),  # InternLM 2
        (["a", "b"], {"eos_token_id": 7}, set()),  # outside the vocabulary: as if not given
    ],
)
def test_the_ids_that_end_a_generation(texts: list[str], more: dict[str, object], expected: set[int]) -> None:
    assert load(tiny(texts, **more)).eog_ids == expected


@pytest.mark.parametrize(
    ("texts", "more", "expected"),
    [
        (["a", "<PRE>", "<SUF>", "<MID>"], {}, {FimToken.PREFIX: 1, FimToken.SUFFIX: 2, FimToken.MIDDLE: 3}),
        (["a", "<｜fim▁begin｜>", "<｜fim▁hole｜>"], {}, {FimToken.PREFIX: 1, FimToken.SUFFIX: 2}),
        (["a", "b", "<PRE>"], {"fim_pre_token_id": 1, "middle_token_id": 0}, {FimToken.PREFIX: 1, FimToken.MIDDLE: 0}),
        (["a", "<|repo_name|>", "<|file_sep|>"], {}, {FimToken.REPOSITORY: 1, FimToken.FILE: 2}),
        (["a", "b"], {"fim_pre_token_id": 9}, {}),
    ],
)
def test_the_tokens_for_filling_in(texts: list[str], more: dict[str, object], expected: dict[FimToken, int]) -> None:
    assert load(tiny(texts, **more)).fim_ids == expected


def test_an_end_found_by_its_text_is_special_whatever_the_file_says() -> None:
    tokenizer = load(tiny(["a", "<|im_end|>"], token_type=[1, 1]))
    assert tokenizer.is_special(1)
    assert tokenizer.encode("a<|im_end|>a") == [0, 1, 0]
    assert tokenizer.encode("a<|im_end|>a", parse_special=False) == [0, 0]


def test_the_fingerprint_tells_tokenizers_apart() -> None:
    same = {load(metadata("byte_level")).fingerprint() for _ in range(2)}
    others = [
        {"pre": "qwen2"},
        {"add_bos_token": True},
        {"eos_token_id": 5},
        {"merges": ["t h"]},
    ]
    prints = same | {load(metadata("byte_level", **replaced)).fingerprint() for replaced in others}
    assert len(prints) == 1 + len(others)
    with_template = metadata("byte_level") | {"tokenizer.chat_template": "x"}
    assert {load(with_template).fingerprint()} == same


def test_importing_is_light() -> None:
    code = "import sys, plait.tokenizer; print({'jinja2', 'tokenizers', 'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
