"""Reads the raw texts and sorts them into documents; knows files and sources, not tokens.

The pools differ in how much a small model can take from them: `tiny` holds stories written for small children (short
sentences, few words), `simple` the tales that read nearly as easily, `tales` the other children's books and fairy
tales, `books` novels.
"""

from __future__ import annotations

import json
import lzma
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SEPARATOR = "<|endoftext|>"
#: The TinyStories validation split: never trained on, so that perplexity on it means something.
VALIDATION_SOURCE = "yuninxia/moe-routing-bench"
TINY_SOURCES = ("TinyStories", "African Storybook", "Pratham Books")
_WORD = re.compile(r"[a-z']+")
_SPECIAL = re.compile(r"<\|[a-z]+\|>")


@dataclass(frozen=True)
class Document:
    """One text and where it came from."""

    text: str
    source: str
    pool: str


def read_text(corpus: Path, name: str) -> str:
    """Text of `name` in the corpus folder, whether or not it is compressed there."""
    plain = corpus / name
    if plain.exists():
        return plain.read_text(encoding="utf-8")
    return lzma.decompress((corpus / f"{name}.xz").read_bytes()).decode("utf-8")


def tidy(text: str) -> str:
    """One blank line between paragraphs, no stray carriage returns, no text that looks like a special token."""
    text = _SPECIAL.sub(" ", text).replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text).strip()
    if "\n\n" not in text:
        text = text.replace("\n", "\n\n")
    return re.sub(r"\n{3,}", "\n\n", text)


def _documents(corpus: Path, stem: str) -> Iterator[tuple[str, str]]:
    rows = (corpus / f"{stem}.index.tsv").read_text(encoding="utf-8").strip().split("\n")[1:]
    texts = re.split(r"^<\|endoftext\|>$", read_text(corpus, f"{stem}.txt"), flags=re.MULTILINE)
    texts = [text for text in (part.strip() for part in texts) if text]
    if len(rows) != len(texts):
        raise ValueError(f"{stem}: {len(texts)} documents but {len(rows)} index rows")
    for row, text in zip(rows, texts, strict=True):
        yield tidy(text), row.split("\t")[2]


def stories(corpus: Path) -> Iterator[Document]:
    """The stories: pool `tiny`, `tales` or `validation`."""
    for text, source in _documents(corpus, "stories"):
        if VALIDATION_SOURCE in source:
            pool = "validation"
        elif source.startswith(TINY_SOURCES):
            pool = "tiny"
        else:
            pool = "tales"
        if len(text) > 80:
            yield Document(text, source, pool)


def books(corpus: Path) -> Iterator[Document]:
    """The novels, one document a book."""
    for text, source in _documents(corpus, "books"):
        yield Document(text, source, "books")


def is_simple(known_words: frozenset[str], text: str) -> bool:
    """Whether a tale keeps to the words of the small children's stories and to short sentences."""
    words = _WORD.findall(text.lower())
    sentences = max(1, len(re.findall(r"[.!?]+", text)))
    return sum(word in known_words for word in words) >= 0.89 * len(words) and len(words) <= 16 * sentences


def common_words(texts: list[str]) -> frozenset[str]:
    """Words that the texts use five times or more."""
    counts = Counter(word for text in texts for word in _WORD.findall(text.lower()))
    return frozenset(word for word, count in counts.items() if count >= 5)


def dialogue(corpus: Path) -> Iterator[dict[str, str]]:
    """Rows of the dialogue file, as they are."""
    for line in read_text(corpus, "dialogue.jsonl").split("\n"):
        if not line:
            continue
        row: dict[str, str] = json.loads(line)
        yield row
