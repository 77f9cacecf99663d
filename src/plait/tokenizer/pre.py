"""The pre-tokenizers that a GGUF file may name in `tokenizer.ggml.pre`, as sequences of regular expressions.

Each expression cuts every piece that the ones before it left; matches and the gaps between them are pieces alike. The
expressions are those that the models' authors published, and follow llama.cpp where its splitter departs from them,
for a GGUF file is meant to give llama.cpp's ids. Syntax is Oniguruma's (the `tokenizers` library's). Knows nothing of
files and vocabularies.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Whole(StrEnum):
    """When a piece that is itself a token is taken as it is, without merging."""

    NEVER = "never"
    ALWAYS = "always"
    NEWLINES = "newlines"  # a run of newlines only


@dataclass(frozen=True, slots=True)
class Split:
    """`join_previous`: a match stays glued to the gap before it, instead of being a piece of its own."""

    pattern: str
    join_previous: bool = False


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """`byte_level`: bytes are written as GPT-2's 256 printable characters. Otherwise spaces become U+2581, characters
    that the vocabulary lacks fall back to `<0xXX>` tokens, and only newlines cut the text (`splits` is empty)."""

    splits: tuple[Split, ...]
    whole: Whole = Whole.NEVER
    add_bos: bool = False
    always_bos: bool = False  # even where the file says no
    byte_level: bool = True


def _splits(*patterns: str | Split) -> tuple[Split, ...]:
    return tuple(p if isinstance(p, Split) else Split(p) for p in patterns)


# Contractions by hand, not (?i:...): case folding would take U+017F for an s.
_CONTRACTION = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s+(?!\S)|\s+"
_ENDING = rf"{_SYMBOLS}|\s*[\r\n]+|{_SPACES}"

_GPT2 = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{_SPACES}"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_ENDING}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_ENDING}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
)
_MINICPM5 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_ENDING}"
_SEED_CODER = rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|{_SPACES}"
_BAILING = rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_WORD}|\p{{N}}|{_SYMBOLS}|\s*[\r\n]|{_SPACES}"
_EXAONE_MOE = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{_SPACES}"
)
_JAIS2 = (
    rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|\s*[\r\n]+"
    + "".join(rf"|\s{{{n}}}(?!\S)" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))
    + r"|\s"
)


def _cased_words(upper: str, lower: str, suffix: str, digits: str) -> str:
    """Words that change from upper to lower case at most once (o200k and its kin)."""
    start = r"[^\r\n\p{L}\p{N}]?"
    words = f"{start}{upper}*{lower}+{suffix}|{start}{upper}+{lower}*{suffix}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|{_SPACES}"


# llama.cpp tells case only within ASCII: every other letter counts as both.
_UPPER = r"(?:(?=\p{L})[^a-z])"
_LOWER = r"(?:(?=\p{L})[^A-Z])"
_TEKKEN = _cased_words(_UPPER, _LOWER, "", r"\p{N}")
_GPT4O = _cased_words(_UPPER, _LOWER, f"(?:{_CONTRACTION})?", r"\p{N}{1,3}")
_GRANITE_MULTI = _cased_words(
    r"(?:(?=[\p{L}\p{M}])[^a-z])", r"(?:(?=[\p{L}\p{M}])[^A-Z])", f"(?:{_CONTRACTION})?", r"\p{N}{1,3}"
)
_CASELESS = r"[\p{L}\p{M}]"  # where it reads \p{Lu}, \p{Ll} ... as \p{L}
_TINY_AYA = _cased_words(_CASELESS, _CASELESS, f"(?:{_CONTRACTION})?", r"\p{N}{1,3}")
_YOUTU = _cased_words(_CASELESS, _CASELESS, f"(?:{_CONTRACTION})?", r"\p{N}")

_KANA_HAN = "[\u4e00-\u9fa5\u3040-\u30ff]+"
_ASCII_PUNCTUATION_WORD = r"[!\"#$%\&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
_DEEPSEEK3_WORD = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_DEEPSEEK3 = rf"{_ASCII_PUNCTUATION_WORD}|{_DEEPSEEK3_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
_SPARK = rf"{_ASCII_PUNCTUATION_WORD}|{_DEEPSEEK3_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|{_SPACES}"
# Digits in threes, counted from the right. llama.cpp's splitter leaves the text before a number with its first group.
_DIGITS_FROM_RIGHT = Split(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", join_previous=True)
_ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0eff\u1780-\u17ff"
    "\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_HAN = "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002ebef\uf900-\ufaff\U0002f800-\U0002fa1f]"
_KIMI = rf"{_HAN}+|[^\r\n\p{{L}}\p{{N}}]?(?:(?!{_HAN})\p{{L}})+(?:{_CONTRACTION})?|\p{{N}}{{1,3}}|{_ENDING}"
_DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
# llama.cpp takes every space outside ASCII for a vertical tab, so ranges do not reach U+2003 and its kin.
_DEEPSEEK_HAN = "[\u0800-\u9fa5\uac00-\ud7ff&&\\S]+"
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"

_DIGIT_THEN_GPT2 = _splits(r"\p{N}", _GPT2)
_NEWLINES = PreTokenizer((), byte_level=False, whole=Whole.NEWLINES, always_bos=True)

_GROUPS: tuple[tuple[str, PreTokenizer], ...] = (
    ("default", PreTokenizer(_splits(r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))),
    (
        "gpt-2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe gigachat a.x-4.0 mellum"
        " modern-bert mpt olmo jais trillion granite-docling exaone4",
        PreTokenizer(_splits(_GPT2)),
    ),
    (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        PreTokenizer(_splits(_LLAMA3), whole=Whole.ALWAYS, add_bos=True),
    ),
    ("dbrx smaug-bpe chatglm-bpe", PreTokenizer(_splits(_LLAMA3))),
    ("glm4 glm5", PreTokenizer(_splits(_LLAMA3), whole=Whole.ALWAYS)),
    (
        "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
        PreTokenizer(_splits(_QWEN2)),
    ),
    ("qwen35", PreTokenizer(_splits(_QWEN35))),
    ("ufakzeka", PreTokenizer(_splits(rf"{_WORD}|\p{{N}}|{_ENDING}"))),
    ("laguna", PreTokenizer(_splits(r"[^\n]+|\n+", _QWEN2))),
    (
        "deepseek-llm",
        PreTokenizer(
            _splits(
                r"[\r\n]",
                rf"\s?[{_DEEPSEEK_LETTERS}]+",
                "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3001-\u3002]+",
                r"\s+\z",
                _DEEPSEEK_HAN,
                r"\p{N}+",
            )
        ),
    ),
    (
        "deepseek-coder",
        PreTokenizer(_splits(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_HAN, r"\p{N}")),
    ),
    (
        "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
        PreTokenizer(_splits(r"\p{N}{1,3}", _KANA_HAN, _DEEPSEEK3)),
    ),
    ("spark2_5", PreTokenizer(_splits(r"\p{N}{1,3}", _KANA_HAN, _SPARK, r"\p{N}"))),
    ("falcon", PreTokenizer(_splits(r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]"))),
    (
        "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
        PreTokenizer(_DIGIT_THEN_GPT2),
    ),
    ("tekken", PreTokenizer(_splits(_TEKKEN), whole=Whole.ALWAYS, add_bos=True)),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", PreTokenizer(_splits(_GPT4O))),
    ("granite-embed-multi-97m", PreTokenizer(_splits(_GRANITE_MULTI), whole=Whole.ALWAYS)),
    ("tiny_aya cohere2moe", PreTokenizer(_splits(_DIGITS_FROM_RIGHT, _TINY_AYA))),
    ("afmoe", PreTokenizer(_splits(_DIGITS_FROM_RIGHT, _ASIAN, _DEEPSEEK3))),
    (
        "youtu",
        PreTokenizer(
            _splits(
                "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u30ff]+",
                _YOUTU,
            ),
            whole=Whole.ALWAYS,
        ),
    ),
    ("kimi-k2", PreTokenizer(_splits(_KIMI))),
    ("superbpe", PreTokenizer(_splits(r"\p{N}+", r"(?=([0-9]{3})+(?![0-9]))"))),
    ("bailingmoe bailingmoe2 llada-moe", PreTokenizer(_splits(_BAILING))),
    ("seed-coder", PreTokenizer(_splits(_SEED_CODER))),
    ("minicpm5", PreTokenizer(_splits(r"\p{N}{1,3}", _MINICPM5), whole=Whole.ALWAYS)),
    ("exaone-moe", PreTokenizer(_splits(_EXAONE_MOE))),
    ("jais-2", PreTokenizer(_splits(_JAIS2))),
    ("poro-chat bloom gpt3-finnish", PreTokenizer(_splits(_BLOOM))),
    ("viking", PreTokenizer(_splits(_BLOOM, r"\p{N}"))),
    (
        "chameleon",
        PreTokenizer(
            _splits(
                "<sentinel:[0-9]+>",
                "(?:IMGIMG)[A-I]{1,4}Z",
                r"[\t\n]|    |  ",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                _GPT2,
            ),
            add_bos=True,
        ),
    ),
    ("gemma4 granite-embed-multi-311m", _NEWLINES),
    ("sarvam-moe", PreTokenizer((), byte_level=False)),
)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: pre for names, pre in _GROUPS for name in names.split()}
