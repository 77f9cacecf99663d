"""Decoding, whole and streamed: the two agree for every sequence of ids, and no character is ever split."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import TokenizerError
from plait.tokenizer import Tokenizer

GOLDENS = Path(__file__).parent.parent / "golden" / "tokenizers"
TOKENIZERS = {name: Tokenizer.load(GOLDENS / f"{name}.gguf") for name in ("byte_level", "sentencepiece", "space_mark")}

names = st.sampled_from(sorted(TOKENIZERS))
id_lists = st.lists(st.integers(0, 500), max_size=40)
bools = st.booleans()


@given(names, id_lists, bools, bools)
def test_the_stream_adds_up_to_the_whole(name: str, ids: list[int], skip: bool, continuing: bool) -> None:
    tokenizer = TOKENIZERS[name]
    stream = tokenizer.stream_decoder(skip, continuing=continuing)
    text = "".join([*(stream.push(token) for token in ids), stream.flush()])
    assert text == tokenizer.decode(ids, skip, continuing=continuing)


@given(names, st.text(max_size=60))
def test_decoding_gives_the_text_back(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    if name != "byte_level":
        text = text.replace("\u2581", "_")  # the mark itself reads as a space
    ids = tokenizer.encode(text, add_special=False, parse_special=False)
    assert tokenizer.decode(ids) == text
    with_ends = tokenizer.encode(text, parse_special=False)
    assert tokenizer.decode(with_ends, skip_special=True) == text


@given(names, st.text(alphabet="aé漢😀👩\u200d", min_size=1, max_size=12))
def test_no_part_of_a_character_is_released(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    stream = tokenizer.stream_decoder()
    parts = [stream.push(token) for token in tokenizer.encode(text, add_special=False)]
    assert "\ufffd" not in "".join(parts)
    assert stream.flush() == ""


def test_an_incomplete_character_waits_and_then_is_replaced() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    byte_ids = [token for token in range(tokenizer.vocab_size) if tokenizer.token_text(token) == "<0xE6>"]
    stream = tokenizer.stream_decoder()
    assert stream.push(byte_ids[0]) == ""
    assert stream.flush() == "\ufffd"
    assert tokenizer.decode(byte_ids) == "\ufffd"


def test_the_space_before_the_first_word() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    ids = tokenizer.encode("the text", add_special=False)
    assert tokenizer.decode(ids) == "the text"
    assert tokenizer.decode(ids, continuing=True) == " the text"
    assert tokenizer.decode([tokenizer.bos_id or 0, *ids], skip_special=True) == "the text"


def test_special_tokens_are_left_out_on_request() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("<|im_start|>a<custom>b<|im_end|>")
    assert tokenizer.decode(ids) == "<|im_start|>a<custom>b<|im_end|>"
    assert tokenizer.decode(ids, skip_special=True) == "a<custom>b"
    assert [tokenizer.is_special(token) for token in ids] == [True, False, False, False, True]


@pytest.mark.parametrize("token", [-1, 100_000])
def test_an_id_outside_the_vocabulary_is_refused(token: int) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    for refuse in (
        lambda: tokenizer.decode([token]),
        lambda: tokenizer.decode([token], skip_special=True),
        lambda: tokenizer.stream_decoder(skip_special=True).push(token),
        lambda: tokenizer.token_bytes(token),
        lambda: tokenizer.token_text(token),
        lambda: tokenizer.is_special(token),
    ):
        with pytest.raises(TokenizerError, match=f"token id {token} is outside the vocabulary"):
            refuse()


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_the_bytes_of_every_token_are_known(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    for token in range(tokenizer.vocab_size):
        assert tokenizer.token_bytes(token) or tokenizer.is_special(token)


def test_ids_containing_finds_whole_and_split_occurrences() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    found = tokenizer.ids_containing(["\n"])
    assert {token for (token,) in found} == {
        token for token in range(tokenizer.vocab_size) if b"\n" in tokenizer.token_bytes(token)
    }
    split = tokenizer.ids_containing(["zq"])
    assert all(b"zq" in b"".join(map(tokenizer.token_bytes, ids)) for ids in split)
    assert any(len(ids) == 2 for ids in split)
