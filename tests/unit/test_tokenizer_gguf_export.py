"""tokenizer.json to GGUF's keys: the same ids and the same text out of a file that llama.cpp reads, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

from plait.errors import TokenizerError, UnsupportedModelError
from plait.tokenizer import gguf, huggingface
from plait.tokenizer.gguf_export import PROBES, tokenizer_pairs
from plait.tokenizer.pre import PRE_TOKENIZERS

MARK = "\u2581"
TEXTS = (*PROBES, "Some more text 4711, with words; and\n\nlines.", "  two  spaces", "ÀÉ日本語 don't")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


def _with_specials(library: Library, folder: Path, **config: Any) -> Path:
    library.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>", "<|im_end|>")])
    library.add_tokens([AddedToken("<tool>", special=False)])
    bos = library.token_to_id("<s>")
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    folder.mkdir(exist_ok=True)
    library.save(str(folder / "tokenizer.json"))
    given = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": TEMPLATE, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(given))
    return folder


def byte_level(folder: Path, pre: str | None) -> Path:
    """Trained across word boundaries, so that a wrong cut shows; `pre` None: a cut that llama.cpp does not know."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([text for text in TEXTS for _ in (0, 1)], trainer)
    patterns = [split.pattern for split in PRE_TOKENIZERS[pre].splits] if pre else [r"[aeiou]+|l+"]
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    library.pre_tokenizer = pre_tokenizers.Sequence([*splits, library.pre_tokenizer])
    library.decoder = decoders.ByteLevel()
    return _with_specials(library, folder)


def space_mark(folder: Path, prefix: bool) -> Path:
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Library(models.BPE(byte_fallback=True))
    steps = [normalizers.Replace(" ", MARK)]
    trained.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), *steps] if prefix else steps)
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", *fallback], show_progress=False)
    trained.train_from_iterator([text for text in TEXTS for _ in (0, 1)], trainer)
    parsed = json.loads(trained.to_str())
    parsed["model"] |= {"byte_fallback": True, "unk_token": "<unk>"}
    parsed["added_tokens"] = [token for token in parsed["added_tokens"] if token["content"] == "<unk>"]
    library = Library.from_str(json.dumps(parsed))
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    library.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return _with_specials(library, folder, unk_token="<unk>")


def check_same(folder: Path, pairs: dict[str, object]) -> None:
    ours, theirs = huggingface.from_file(folder), gguf.from_metadata("out.gguf", pairs)
    for text in (*TEXTS, "<s>a<tool>b</s><|im_end|>"):
        for special in (True, False):
            assert theirs.encoder.encode(text, special, True) == ours.encoder.encode(text, special, True), text
    assert (theirs.vocabulary.bos_id, theirs.vocabulary.eos_id) == (ours.vocabulary.bos_id, ours.vocabulary.eos_id)
    assert ours.vocabulary.eog_ids <= theirs.vocabulary.eog_ids
    for token in range(len(ours.vocabulary.texts)):
        assert theirs.vocabulary.piece(token) == ours.vocabulary.piece(token)


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "gpt-2", "starcoder", "gpt-4o", "deepseek-coder"])
def test_byte_level(pre: str, tmp_path: Path) -> None:
    folder = byte_level(tmp_path, pre)
    pairs = tokenizer_pairs(folder, 1000)
    assert pairs["tokenizer.ggml.model"] == "gpt2"
    assert pairs["tokenizer.ggml.add_bos_token"] is True
    assert pairs["tokenizer.chat_template"] == TEMPLATE
    assert len(pairs["tokenizer.ggml.tokens"]) == 1000  # type: ignore[arg-type]
    check_same(folder, pairs)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(prefix: bool, tmp_path: Path) -> None:
    folder = space_mark(tmp_path, prefix)
    pairs = tokenizer_pairs(folder, 700)
    assert pairs["tokenizer.ggml.model"] == "llama"
    assert pairs["tokenizer.ggml.add_space_prefix"] is prefix
    assert pairs["tokenizer.ggml.unknown_token_id"] == 0
    for text in TEXTS:
        ours, theirs = huggingface.from_file(folder), gguf.from_metadata("out.gguf", pairs)
        assert theirs.encoder.encode(text, True, True) == ours.encoder.encode(text, True, True), text


def test_types(tmp_path: Path) -> None:
    pairs: Any = tokenizer_pairs(space_mark(tmp_path, True), 700)
    kinds = dict(zip(pairs["tokenizer.ggml.tokens"], pairs["tokenizer.ggml.token_type"], strict=True))
    assert (kinds["<unk>"], kinds["<s>"], kinds["<tool>"], kinds["<0x41>"], kinds["[PAD699]"]) == (2, 3, 4, 6, 5)


def test_named_templates(tmp_path: Path) -> None:
    folder = byte_level(tmp_path, "qwen2")
    templates = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "chat_template": templates}))
    pairs = tokenizer_pairs(folder, 1000)
    assert pairs["tokenizer.chat_template"] == "a"
    assert pairs["tokenizer.chat_templates"] == ["tool_use"]
    assert pairs["tokenizer.chat_template.tool_use"] == "b"


def test_what_gguf_does_not_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="no pre-tokenizer"):
        tokenizer_pairs(byte_level(tmp_path / "odd", None), 1000)
    with pytest.raises(TokenizerError, match="tokens, but the model 300"):
        tokenizer_pairs(byte_level(tmp_path / "small", "qwen2"), 300)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(UnsupportedModelError, match=r"has tokenizer\.model but no"):
        tokenizer_pairs(tmp_path, 300)
