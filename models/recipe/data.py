"""Cleans, splits and tokenises the corpus into pools of uint16 tokens that train.py slices on the GPU.

Pools to train on: `tiny`, `simple`, `tales`, `books` (plain documents, every token counts), `talk` (dialogue as
language, every token counts) and `chat` (conversations to learn to answer from: only the assistant's words count).
Most have a held-out part of the same name; `validation` is the TinyStories validation split, held out entirely.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import chat
import corpus
import numpy as np
import tokenizer as vocabulary
from tokenizers import Tokenizer

ROLES = {"system": vocabulary.SYSTEM, "user": vocabulary.USER, "assistant": vocabulary.ASSISTANT}
#: A sample is marked as not counting towards the loss in the token's top bit (ids need 13 of 16).
SILENT = 1 << 15
#: Stories are not asked for when they end badly.
GRIM = re.compile(r"\b(died|dead|blood|killed|kill|murder\w*|corpse|never woke)\b", re.IGNORECASE)


def plain_tokens(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    """Documents, each opened by `<|endoftext|>`; the next one's opening is the end of this one."""
    tokens: list[int] = []
    for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
        tokens.append(vocabulary.DOCUMENT)
        tokens += encoding.ids
    return tokens


def chat_tokens(tokenizer: Tokenizer, talks: list[chat.Conversation], every_token: bool) -> list[int]:
    """Conversations in the template's form; what the assistant does not say is silent unless `every_token`."""
    flat = [text for talk in talks for _, text in talk]
    encoded = iter(tokenizer.encode_batch(flat, add_special_tokens=False))
    tokens: list[int] = []
    for talk in talks:
        tokens.append(vocabulary.DOCUMENT)
        for role, _ in talk:
            own = [*next(encoded).ids, vocabulary.END]
            silent = 0 if every_token or role == "assistant" else SILENT
            tokens.append(ROLES[role] | (0 if every_token else SILENT))
            tokens += [token | silent for token in own]
    return tokens


def split(items: list[str], held_out: int, rng: random.Random) -> tuple[list[str], list[str]]:
    """(training, held out), both shuffled."""
    items = list(items)
    rng.shuffle(items)
    return items[held_out:], items[:held_out]


def plain_pools(folder: Path, rng: random.Random) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Plain documents for training and held out, by pool."""
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for document in corpus.stories(folder):
        texts[document.pool].append(document.text)
    texts["books"] = [document.text for document in corpus.books(folder)]
    train, held = {}, {}
    for pool, size in (("tiny", 100), ("tales", 120), ("books", 4)):
        train[pool], held[pool] = split(texts[pool], size, rng)
    held["validation"] = texts["validation"]
    known = corpus.common_words(train["tiny"])
    tales = train["tales"]
    train["simple"] = [text for text in tales if corpus.is_simple(known, text)]
    train["tales"] = [text for text in tales if not corpus.is_simple(known, text)]
    held["books"] = [text[:100_000] for text in held["books"]]
    return train, held


def talk_pools(
    folder: Path, stories: list[str], own_path: Path, rng: random.Random
) -> dict[str, list[chat.Conversation]]:
    """Conversations by pool: `talk` (language only), `chat` (to learn answering from) and their held-out parts."""
    rows = list(corpus.dialogue(folder))
    threads = list(chat.conversations(rows))
    rng.shuffle(threads)
    persona = [talk for source, talk in threads if source == "Synthetic-Persona-Chat"]
    others = [talk for source, talk in threads if source != "Synthetic-Persona-Chat"]
    reading = [[("user", corpus.tidy(talk[0][1])), talk[1]] for talk in chat.single_pairs(rows, "FairytaleQA")]
    sums = list(chat.single_pairs(rows, "GSM8K"))
    own = chat.own_pairs(own_path)
    sessions = list(chat.story_sessions(stories, own, persona[200:], copies=3, seed=1))
    small = list(chat.small_talk(own, rows, seed=2))
    rng.shuffle(reading)
    answers = sessions[40:] + small + persona[200:][::2] + reading[100:600]
    rng.shuffle(answers)
    language = others[100:] + sums + reading[100:]
    rng.shuffle(language)
    return {"talk": language, "chat": answers, "held-talk": others[:100], "held-chat": persona[:200] + reading[:20]}


def save(out: Path, name: str, tokens: Iterable[int], meta: dict[str, int]) -> None:
    """Writes `name`.u16 and notes its length."""
    array = np.fromiter(tokens, dtype=np.uint16)
    array.tofile(out / f"{name}.u16")
    meta[name] = int(array.size)
    print(f"{name:18} {array.size:>11,} tokens", flush=True)


def main() -> None:
    """Command line."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus"))
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--own-chat", type=Path, default=here / "own_chat.tsv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    rng = random.Random(args.seed)
    train, held = plain_pools(args.corpus, rng)
    # Old tales are left out: what is asked for should be told simply.
    short = [text for text in train["tiny"] + train["simple"] if len(text) < 3500 and not GRIM.search(text)]
    talks = talk_pools(args.corpus, short, args.own_chat, rng)
    meta: dict[str, int] = {}
    for pool, texts in train.items():
        save(args.out, f"train.{pool}", plain_tokens(tokenizer, texts), meta)
    for pool, texts in held.items():
        save(args.out, f"held.{pool}", plain_tokens(tokenizer, texts), meta)
    save(args.out, "train.talk", chat_tokens(tokenizer, talks["talk"], every_token=True), meta)
    save(args.out, "train.chat", chat_tokens(tokenizer, talks["chat"], every_token=False), meta)
    save(args.out, "held.talk", chat_tokens(tokenizer, talks["held-talk"], every_token=True), meta)
    save(args.out, "held.chat", chat_tokens(tokenizer, talks["held-chat"], every_token=False), meta)
    (args.out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


if __name__ == "__main__":
    main()
