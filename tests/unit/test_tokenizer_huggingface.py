"""tokenizer.json: ids and text as the `tokenizers` library gives them, special tokens as the files around it say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

from plait.errors import TokenizerError, UnsupportedModelError
from plait.tokenizer import Tokenizer

TEXTS = [
    "The quick brown fox. It's 1234 o'clock!",
    "naïve café 漢字 かな",
    "  spaces\n\n\ttabs 😀😀",
    "hello hello hello",
] * 2
MARK = "\u2581"


def byte_level() -> Library:
    library = Library(models.BPE())
    split = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?[^\s\p{N}]+|\s+"), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    return with_specials(library)


def llama_like() -> Library:
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Library(models.BPE(byte_fallback=True))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    trained.train_from_iterator(
        ["abc abd the the hello"] * 3,
        trainers.BpeTrainer(vocab_size=340, special_tokens=["<unk>", *fallback], show_progress=False),
    )
    parsed = json.loads(trained.to_str())
    parsed["model"] |= {"byte_fallback": True, "unk_token": "<unk>"}
    parsed["added_tokens"] = [token for token in parsed["added_tokens"] if token["content"] == "<unk>"]
    library = Library.from_str(json.dumps(parsed))
    library.decoder = decoders.Sequence(
        [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return with_specials(library)


def metaspace() -> Library:
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    return with_specials(library)


def with_specials(library: Library) -> Library:
    library.add_special_tokens([AddedToken("<s>", special=True), AddedToken("<|im_end|>", special=True)])
    library.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    bos = library.token_to_id("<s>")
    library.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", bos)])
    return library


LIBRARIES = {"byte level": byte_level(), "llama-like": llama_like(), "metaspace": metaspace()}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    tokenizers = {}
    for name, library in LIBRARIES.items():
        folder = tmp_path_factory.mktemp("model")
        library.save(str(folder / "tokenizer.json"))
        tokenizers[name] = Tokenizer.load(folder)
    return tokenizers


@given(st.sampled_from(sorted(LIBRARIES)), st.one_of(st.text(max_size=30), st.sampled_from(TEXTS)), st.booleans())
def test_ids_are_the_librarys(loaded: dict[str, Tokenizer], name: str, text: str, add_special: bool) -> None:
    expected = LIBRARIES[name].encode(text, add_special_tokens=add_special).ids
    assert loaded[name].encode(text, add_special=add_special) == expected


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", LIBRARIES)
def test_text_is_the_librarys(loaded: dict[str, Tokenizer], name: str, skip: bool) -> None:
    for text in (*TEXTS, "abc the<|im_end|>", "<think> a</think>", "", "é", "<|im_end|> the"):
        ids = LIBRARIES[name].encode(text).ids
        assert loaded[name].decode(ids, skip) == LIBRARIES[name].decode(ids, skip_special_tokens=skip)


@given(st.sampled_from(sorted(LIBRARIES)), st.lists(st.integers(0, 100), max_size=30), st.booleans())
def test_the_stream_adds_up_to_the_whole(loaded: dict[str, Tokenizer], name: str, ids: list[int], skip: bool) -> None:
    stream = loaded[name].stream_decoder(skip)
    assert "".join([*map(stream.push, ids), stream.flush()]) == loaded[name].decode(ids, skip)


@pytest.mark.parametrize("name", LIBRARIES)
def test_special_tokens_can_be_plain_text(loaded: dict[str, Tokenizer], name: str) -> None:
    tokenizer = loaded[name]
    end = tokenizer.encode("<|im_end|>", add_special=False)[-1]
    assert tokenizer.token_text(end) == "<|im_end|>"
    assert tokenizer.is_special(end)
    plain = tokenizer.encode("the<|im_end|><think>", add_special=False, parse_special=False)
    assert end not in plain
    assert "<think>" in map(tokenizer.token_text, plain)  # the user's own token is no special one
    assert end in tokenizer.encode("the<|im_end|>")  # and the other way of reading is not disturbed


def write(folder: Path, **files: Any) -> Tokenizer:
    LIBRARIES["byte level"].save(str(folder / "tokenizer.json"))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return Tokenizer.load(folder)


def test_begin_and_end_as_the_files_say(tmp_path: Path) -> None:
    bos, end, think = (LIBRARIES["byte level"].token_to_id(text) for text in ("<s>", "<|im_end|>", "<think>"))
    tokenizer = write(
        tmp_path,
        tokenizer_config={"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>", "chat_template": "x"},
        generation_config={"eos_token_id": [think, end]},
    )
    assert (tokenizer.bos_id, tokenizer.eos_id) == (bos, end)
    assert tokenizer.eog_ids == {think, end}
    assert tokenizer.chat_template == "x"
    assert tokenizer.kind == "tokenizer.json"


def test_begin_and_end_without_those_files(tmp_path: Path) -> None:
    end = LIBRARIES["byte level"].token_to_id("<|im_end|>")
    tokenizer = write(tmp_path, config={"eos_token_id": 5, "bos_token_id": None})
    assert (tokenizer.bos_id, tokenizer.eos_id) == (None, 5)
    assert tokenizer.eog_ids == {5, end}


def test_a_file_alone(tmp_path: Path) -> None:
    LIBRARIES["byte level"].save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path / "tokenizer.json").encode("hello") == LIBRARIES["byte level"].encode("hello").ids


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"holds no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: is no usable tokenizer"):
        Tokenizer.load(tmp_path)
    LIBRARIES["byte level"].save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json: cannot be read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("decoder", [None, decoders.WordPiece(), decoders.CTC()])
def test_a_decoder_that_does_not_work_token_by_token_is_refused(decoder: Any, tmp_path: Path) -> None:
    library = Library(models.WordLevel({"a": 0}, unk_token="a"))
    if decoder is not None:
        library.decoder = decoder
    library.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedModelError, match=r"decoder \w+ is not supported"):
        Tokenizer.load(tmp_path)
