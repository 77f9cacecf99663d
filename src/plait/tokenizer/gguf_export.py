"""The tokenizer of a Hugging Face directory as GGUF's keys: what llama.cpp's converters write.

Byte-level merges become the kind gpt2, with the pre-tokenizer that gives the same ids for a handful of texts; merges
with a byte fallback become the kind llama, with scores from the order of merges. Knows tokenizer.json and
`tokenizer.ggml.*`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait.errors import TokenizerError, UnsupportedModelError
from plait.tokenizer import gguf, huggingface, template_files
from plait.tokenizer.huggingface import TOKENIZER_FILE, read_json, token_text
from plait.tokenizer.pre import PRE_TOKENIZERS
from plait.tokenizer.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE_MARK,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Spelling,
    Vocabulary,
)

_TYPES = {NORMAL: 1, UNKNOWN: 2, CONTROL: 3, USER_DEFINED: 4, UNUSED: 5, BYTE: 6}
_UNUSED_TYPE = _TYPES[UNUSED]
# Tried first, in this order: the usual ones of the families that Plait writes.
_USUAL = (
    "llama-bpe", "qwen2", "gpt-2", "smollm", "tekken", "glm4", "chatglm-bpe", "gpt-4o", "starcoder", "deepseek-llm",
    "deepseek-coder", "deepseek-v3", "command-r", "exaone", "falcon", "default",
)  # fmt: skip
PROBES = (
    "Hello, world!  It's 3.14159 and 1234567 (or -8)…\n\n\tdef f(x_1):\n        return x_1**2  # a comment\r\n",
    "we'll I'M you're don't THEY'VE O'Brien's camelCase HTTPServer snake_case kebab-case",
    "Größe naïve Ελλάδα Привет мир नमस्ते สวัสดี 안녕하세요 こんにちは世界 你好，世界。 ",
    "🙂👩‍👩‍👧 a+b=c; x<=y!=z && w||v \\n ``` $%^&*_~ \"quoted\" 'single' «ok» 12 345 000,50 €",
    "a   b    c\n \n  \n\n\n   end", " leading", "trailing ", "\u3000wide\u00a0space", "ABCdef ÀÉÎ 0x1F 1e-9 v2.0.1",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Source:
    """What tokenizer.json holds, and what Plait makes of it."""

    folder: Path
    json: Mapping[str, Any]
    vocabulary: Vocabulary
    encoder: Any

    @property
    def file(self) -> Path:
        return self.folder / TOKENIZER_FILE


def tokenizer_pairs(folder: Path, n_vocab: int) -> dict[str, object]:
    """The keys for a model with `n_vocab` tokens; without a tokenizer in `folder` the kind is no_vocab, for models that
    read ids. Raises `TokenizerError`, or `UnsupportedModelError` for a kind that GGUF files of Plait do not hold."""
    if not (folder / TOKENIZER_FILE).exists():
        _refuse_other_files(folder)
        return {"tokenizer.ggml.model": "no_vocab"}
    parts = huggingface.from_file(folder)
    source = _Source(folder, read_json(folder / TOKENIZER_FILE), parts.vocabulary, parts.encoder)
    if len(source.vocabulary.texts) > n_vocab:
        reason = f"has {len(source.vocabulary.texts)} tokens, but the model {n_vocab}"
        raise TokenizerError(f"{source.file}: {reason}")
    common = {**_tokens(source, n_vocab), **_special(source)}
    pairs = _byte_level(source, common) if _is_byte_level(source) else _space_mark(source, common)
    return {**pairs, **_templates(folder)}


def _refuse_other_files(folder: Path) -> None:
    other = next((name for name in ("tokenizer.model", "vocab.json", "vocab.txt") if (folder / name).exists()), None)
    if other is not None:
        reason = f"has {other} but no {TOKENIZER_FILE}; transformers writes one (AutoTokenizer, save_pretrained)"
        raise UnsupportedModelError(folder, reason)


def _is_byte_level(source: _Source) -> bool:
    return source.vocabulary.spelling is Spelling.BYTE_LEVEL


def _tokens(source: _Source, n_vocab: int) -> dict[str, object]:
    vocabulary = source.vocabulary
    texts, types = list(vocabulary.texts), [_TYPES[attribute] for attribute in vocabulary.attributes]
    unknown = _id_of(source, "unk_token")
    if unknown is not None and not _is_byte_level(source):
        types[unknown] = _TYPES[UNKNOWN]
    for token, text in enumerate(texts):
        if types[token] == _TYPES[USER_DEFINED]:
            texts[token] = text.replace(SPACE_MARK, " ")  # llama.cpp looks for them in the text as it comes
        elif not text:
            texts[token], types[token] = f"[PAD{token}]", _UNUSED_TYPE
    texts += [f"[PAD{token}]" for token in range(len(texts), n_vocab)]
    types += [_UNUSED_TYPE] * (n_vocab - len(types))
    return {"tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": types}


def _special(source: _Source) -> dict[str, object]:
    ids = {
        "bos": source.vocabulary.bos_id,
        "eos": source.vocabulary.eos_id,
        "unknown": _id_of(source, "unk_token"),
        "padding": _id_of(source, "pad_token"),
    }
    pairs: dict[str, object] = {f"tokenizer.ggml.{name}_token_id": i for name, i in ids.items() if i is not None}
    bare, whole = (source.encoder.encode("a", added, False) for added in (False, True))
    start = whole.index(bare[0]) if bare and bare[0] in whole else 0
    pairs["tokenizer.ggml.add_bos_token"] = start > 0 and whole[0] == ids["bos"]
    pairs["tokenizer.ggml.add_eos_token"] = len(whole) > start + len(bare) and whole[-1] == ids["eos"]
    return pairs


def _id_of(source: _Source, key: str) -> int | None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        text = token_text(read_json(source.folder / name).get(key))
        if text is not None and text in source.vocabulary.texts:
            return source.vocabulary.texts.index(text)
    text = source.json["model"].get("unk_token") if key == "unk_token" else None
    known = isinstance(text, str) and text in source.vocabulary.texts
    return source.vocabulary.texts.index(text) if known else None


def _merges(source: _Source) -> list[tuple[str, str]]:
    model = source.json.get("model", {})
    if model.get("type", "BPE") != "BPE" or not isinstance(model.get("merges"), list):
        raise UnsupportedModelError(
            source.file, f"its model is {model.get('type')}; plait quantize writes BPE, byte-level or SentencePiece's"
        )
    return [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]  # type: ignore[misc]


def _byte_level(source: _Source, common: Mapping[str, object]) -> dict[str, object]:
    pairs = {
        "tokenizer.ggml.model": "gpt2",
        **common,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in _merges(source)],
    }
    for name in _candidates():
        found = {**pairs, "tokenizer.ggml.pre": name}
        if _differs(source, found) is None:
            return found
    raise UnsupportedModelError(
        source.file, "no pre-tokenizer of llama.cpp cuts text as this one does; GGUF cannot hold it"
    )


def _candidates() -> Iterator[str]:
    yield from _USUAL
    tried = {PRE_TOKENIZERS[name] for name in _USUAL}
    for name, pre in PRE_TOKENIZERS.items():
        if pre not in tried and pre.byte_level:
            tried.add(pre)
            yield name


def _space_mark(source: _Source, common: Mapping[str, object]) -> dict[str, object]:
    tokens: Any = common["tokenizer.ggml.tokens"]
    ids = {text: token for token, text in enumerate(tokens)}
    scores = [0.0] * len(tokens)
    for rank, (left, right) in enumerate(_merges(source)):
        token = ids.get(left + right)
        if token is not None and not scores[token]:
            scores[token] = -1.0 - rank  # the first merge that makes it
    normal = [t for t, kind in enumerate(common["tokenizer.ggml.token_type"]) if kind == 1]  # type: ignore[arg-type, var-annotated]
    for token in normal:
        scores[token] = scores[token] or -1e6  # single characters: nothing merges into them
    pairs = {"tokenizer.ggml.model": "llama", **common, "tokenizer.ggml.scores": scores}
    for prefix in (True, False):
        found = {**pairs, "tokenizer.ggml.add_space_prefix": prefix}
        if _differs(source, found) is None:
            return found
    text = _differs(source, pairs)  # with a prefix, the default
    raise UnsupportedModelError(source.file, f"GGUF's kind llama gives other ids for {text!r:.60}; it cannot hold it")


def _differs(source: _Source, pairs: Mapping[str, object]) -> str | None:
    """The first text for which a GGUF file with `pairs` gives other ids."""
    encoder = gguf.from_metadata(str(source.file), pairs).encoder
    for text in PROBES:
        if encoder.encode(text, True, False) != source.encoder.encode(text, True, False):
            return text
    return None


def _templates(folder: Path) -> dict[str, object]:
    templates: Mapping[str, str] = template_files.from_directory(folder)
    pairs: dict[str, object] = {}
    names: Sequence[str] = sorted(name for name in templates if name != template_files.DEFAULT)
    if template_files.DEFAULT in templates:
        pairs["tokenizer.chat_template"] = templates[template_files.DEFAULT]
    if names:
        pairs["tokenizer.chat_templates"] = list(names)
        pairs |= {f"tokenizer.chat_template.{name}": templates[name] for name in names}
    return pairs
