"""Trains the byte-level BPE vocabulary; llama.cpp's `gpt-2` pre-tokenizer splits text exactly as this one does."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import corpus
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

#: Ids follow this order. The first opens and closes every document; `<|end|>` closes a turn.
SPECIAL_TOKENS = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
DOCUMENT, SYSTEM, USER, ASSISTANT, END = range(5)


def texts(folder: Path, book_bytes: int) -> Iterator[str]:
    """What the merges are counted on: all stories but the validation split, some novels, the dialogue."""
    for document in corpus.stories(folder):
        if document.pool != "validation":
            # The simple stories are few but matter most: counted several times they keep their words whole.
            yield from [document.text] * (4 if document.pool == "tiny" else 1)
    novels = list(corpus.books(folder))
    random.Random(0).shuffle(novels)
    taken = 0
    for document in novels:
        if taken < book_bytes:
            yield document.text
            taken += len(document.text)
    for row in corpus.dialogue(folder):
        if row["source"] != "GSM8K":
            yield row["response"]


def train(folder: Path, size: int, book_bytes: int) -> Tokenizer:
    """A vocabulary of `size` tokens: the special ones, all 256 bytes, and merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(folder, book_bytes), trainer)
    return tokenizer


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus"))
    parser.add_argument("--out", type=Path, required=True, help="tokenizer.json to write")
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--book-bytes", type=int, default=20_000_000)
    args = parser.parse_args()
    tokenizer = train(args.corpus, args.size, args.book_bytes)
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out))
    print(f"{tokenizer.get_vocab_size()} tokens -> {args.out}")


if __name__ == "__main__":
    main()
