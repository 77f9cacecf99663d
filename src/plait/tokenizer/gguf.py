"""From GGUF metadata to an encoder: which kind of tokenizer the file names, and its special tokens around the text.

Knows the kinds llama (SentencePiece), gpt2 (byte-level) and gemma4. Gives llama.cpp's ids.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import TypeAlias

from plait.errors import TokenizerError, UnsupportedModelError
from plait.tokenizer.bpe import BpeMerger
from plait.tokenizer.data import SPECIAL, TokenizerData
from plait.tokenizer.gguf_vocabulary import Metadata, read_vocabulary
from plait.tokenizer.partition import SpecialTokens
from plait.tokenizer.pre import PRE_TOKENIZERS, PreTokenizer
from plait.tokenizer.sentencepiece import SentencePieceMerger
from plait.tokenizer.vocabulary import Spelling, Vocabulary, digest
from plait.types import TokenId

Merge: TypeAlias = Callable[[str], list[TokenId]]

_KINDS = ("llama", "gpt2", "gemma4")


class GgufEncoder:
    """Cuts out special tokens, merges what lies between, and adds the begin and end tokens the file asks for.
    `space_prefix`: a stretch at the start of the text or after a special token gets a leading space."""

    def __init__(
        self, vocabulary: Vocabulary, merge: Merge, *, add_bos: bool, add_eos: bool, space_prefix: bool
    ) -> None:
        self._special = SpecialTokens(vocabulary)
        self._merge = merge
        self._before = [vocabulary.bos_id] if add_bos and vocabulary.bos_id is not None else []
        self._after = [vocabulary.eos_id] if add_eos and vocabulary.eos_id is not None else []
        self._prefix = " " if space_prefix else ""

    @property
    def surroundings(self) -> str:
        return repr((self._before, self._after, self._prefix))

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[TokenId]:
        ids = list(self._before) if add_special else []
        prefix = self._prefix
        for fragment in self._special.cut(text, parse_special):
            if isinstance(fragment, str):
                ids += self._merge(prefix + fragment)
                prefix = ""
            else:
                ids.append(fragment)
                prefix = self._prefix
        if add_special:
            ids += self._after
        return ids


def from_metadata(file: str, values: Mapping[str, object]) -> TokenizerData:
    """Raises `TokenizerError`, or `UnsupportedModelError` for a kind or a pre-tokenizer that is not known."""
    meta = Metadata(file, values)
    kind = meta.get("model", str)
    if kind is None:
        raise TokenizerError(f"{file}: tokenizer.ggml.model: is missing; the file holds no tokenizer")
    if kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise UnsupportedModelError(file, f"tokenizer.ggml.model is '{kind}'; supported kinds are {known}")
    return _sentencepiece(meta) if kind == "llama" else _byte_pair(meta, kind)


def _sentencepiece(meta: Metadata) -> TokenizerData:
    prefix = _flag(meta, "add_space_prefix", True)
    vocabulary, ids = read_vocabulary(meta, Spelling.SPACE_MARK, strips_space=prefix)
    scores = meta.numbers("scores", len(ids)) or [0.0] * len(ids)
    unknown = meta.get("unknown_token_id", int)
    merger = SentencePieceMerger(ids, scores, 0 if unknown is None or not 0 <= unknown < len(ids) else unknown)
    encoder = GgufEncoder(
        vocabulary,
        merger.encode,
        add_bos=_flag(meta, "add_bos_token", True),
        add_eos=_flag(meta, "add_eos_token", False),
        space_prefix=prefix,
    )
    method = digest("llama", encoder.surroundings, array("d", scores).tobytes())
    return TokenizerData("llama", vocabulary, encoder, method, _special_texts(meta, vocabulary))


def _byte_pair(meta: Metadata, kind: str) -> TokenizerData:
    name = "gemma4" if kind == "gemma4" else meta.get("pre", str) or "default"
    pre = _pre_tokenizer(meta, name)
    spelling = Spelling.BYTE_LEVEL if pre.byte_level else Spelling.SPACE_MARK
    vocabulary, ids = read_vocabulary(meta, spelling, strips_space=False)
    merges = meta.strings("merges")
    if merges is None and name != "kimi-k2":
        raise meta.error("merges", f"is missing; a tokenizer of kind '{kind}' needs it")
    merger = BpeMerger(ids, merges or [], pre, meta.file)
    encoder = GgufEncoder(
        vocabulary,
        merger.encode,
        add_bos=pre.always_bos or _flag(meta, "add_bos_token", pre.add_bos),
        add_eos=_flag(meta, "add_eos_token", False),
        space_prefix=False,
    )
    method = digest(repr(pre), encoder.surroundings, *(merges or []))
    return TokenizerData(f"{kind} ({name})", vocabulary, encoder, method, _special_texts(meta, vocabulary))


def _special_texts(meta: Metadata, vocabulary: Vocabulary) -> dict[str, str]:
    """Texts of the special tokens that a template may ask for."""
    keys = {"unk": "unknown", "sep": "seperator", "pad": "padding"}  # the second is how GGUF spells it
    ids = {name: meta.get(f"{keys.get(name, name)}_token_id", int) for name in SPECIAL}
    known = range(len(vocabulary.texts))
    return {
        f"{name}_token": vocabulary.texts[token] for name, token in ids.items() if token is not None and token in known
    }


def _pre_tokenizer(meta: Metadata, name: str) -> PreTokenizer:
    if name not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise UnsupportedModelError(meta.file, f"tokenizer.ggml.pre is '{name}', which is not known; known are {known}")
    return PRE_TOKENIZERS[name]


def _flag(meta: Metadata, name: str, default: bool) -> bool:
    value = meta.get(name, bool)
    return default if value is None else value
