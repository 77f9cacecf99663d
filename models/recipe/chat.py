"""Turns stories and dialogue rows into conversations; knows roles, not tokens.

A conversation is a list of (role, text). Three kinds leave this module: requests answered with a story,
small talk, and the rows of the dialogue corpus put back together.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

Turn = tuple[str, str]
Conversation = list[Turn]
#: Ways to say something, ways to answer it.
Row = tuple[list[str], list[str]]

WORDS = {name: text.split() for name, text in tomllib.loads((Path(__file__).parent / "words.toml").read_text()).items()}
STORY_SYSTEMS = (
    "You are a kind storyteller.",
    "You tell short stories for children.",
    "You are a helpful assistant.",
    "You are Tales, a friendly storyteller.",
)
OPENERS = (
    "Tell me a story about {}.",
    "Tell me a story about {}",
    "Write a story about {}.",
    "Can you tell me a story about {}?",
    "Please tell me a story about {}.",
    "Tell me a short story about {}.",
    "I want to hear a story about {}.",
    "Write a short story about {}.",
    "Could you tell me a bedtime story about {}?",
    "Make up a story about {}.",
    "A story about {}, please.",
    "tell me a story about {}",
)
PLAIN = (
    "Tell me a story.",
    "Tell me a story",
    "Can you tell me a story?",
    "Please tell me a story.",
    "Write a short story.",
    "I would like to hear a story.",
    "Tell me a bedtime story.",
    "Write a story for children.",
    "Another story, please.",
    "tell me a story",
    "Once more, a story please!",
)
WITH_WORDS = (
    "Write a story with the words {}.",
    "Tell me a story with the words {}.",
    "Make a story with these words: {}",
    "Use these words in a story: {}.",
)
CONTINUE = ("Continue this story: {}", "Go on with this story: {}", "How does this story go on? {}")
BEGIN = ('Write a story that begins with "{}"', 'Tell me a story that starts like this: "{}"')
HERO = re.compile(
    r"there (?:was|lived|were)(?: once)? "
    r"((?:a|an|two|three) [a-z' -]{3,40}?(?: named [A-Z][a-z]+| called [A-Z][a-z]+)?)"
    r"(?=[.,;]| who| and| that| in | with )"
)
NOUN = re.compile(
    r"\b(?:a|an|the|his|her|their) ([a-z]{3,12})"
    r"(?=[.,!?\";]| (?:was|is|and|in|on|to|that|who|with|had|said|of|at)\b)"
)
NAME = re.compile(r"\b[A-Z][a-z]+\b")
PLACEHOLDER = re.compile(r"[\[\](){}<>]|\buser \d|https?:|_|&")
#: Chat about films, sport and bands is full of names a small model can only garble.
NAMES = re.compile(
    r"\b(movie|film|actor|actress|season|team|player|band|album|song|game|coach|series|episode|quarterback|nfl|nba|trump|"
    r"chatgpt|language model|sex|sexy|drunk|beer|kill|drug|vote|politic\w*|president|bot)s?\b",
    re.IGNORECASE,
)
ROBOTIC = re.compile(r"cancel|command|device|right answer|flattery|virtual|cyberspace|chatbot", re.IGNORECASE)


def subjects(story: str) -> list[str]:
    """What a request for this story might ask for: its hero, its commonest things and its names."""
    found = []
    hero = HERO.search(story[:400])
    if hero:
        found.append(hero.group(1))
    nouns = [noun for noun, _ in Counter(NOUN.findall(story)).most_common(6) if noun not in WORDS["stop"]]
    found += [f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" for noun in nouns[:2] if not noun.endswith("s")]
    if len(nouns) >= 2 and not nouns[0].endswith("s") and not nouns[1].endswith("s"):
        first, second = (f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" for noun in nouns[:2])
        found.append(f"{first} and {second}")
    names = Counter(re.findall(r"(?<=[a-z,] )([A-Z][a-z]{2,9})\b", story))
    known = [name for name, count in names.most_common(2) if count > 2]
    if known:
        found.append(" and ".join(known))
    return found


def recast(story: str, rng: random.Random) -> tuple[str, str]:
    """(story with its first well-known name exchanged, new name), or the story as it is and "".

    The same few names stand in most of the simple stories; asked for another, the model must take it from the request.
    """
    for name in NAME.findall(story[:600]):
        for old, new in (("old_girls", "girls"), ("old_boys", "boys"), ("old_pets", "pets")):
            if name in WORDS[old]:
                fresh = rng.choice(WORDS[new])
                return (re.sub(rf"\b{name}\b", fresh, story), fresh) if fresh not in story else (story, "")
    return story, ""


def story_request(story: str, rng: random.Random) -> Conversation:
    """One way to ask for this very story, and the story as its answer."""
    kind = rng.random()
    if rng.random() < 0.7:
        story, name = recast(story, rng)
        if name and rng.random() < 0.6:
            girl_or_boy = "girl" if name in WORDS["girls"] else "boy" if name in WORDS["boys"] else "pet"
            asked = rng.choice((name, f"a {girl_or_boy} named {name}", f"a {girl_or_boy} called {name}", name))
            return [("user", rng.choice(OPENERS).format(asked)), ("assistant", story)]
    about = subjects(story)
    words = [noun for noun, _ in Counter(NOUN.findall(story)).most_common(12) if noun not in WORDS["stop"]]
    if kind < 0.62 and about:
        return [("user", rng.choice(OPENERS).format(rng.choice(about))), ("assistant", story)]
    if kind < 0.78 and len(words) >= 3:
        chosen = rng.sample(words, 3)
        listed = rng.choice([", ".join(chosen), f"{chosen[0]}, {chosen[1]} and {chosen[2]}"])
        return [("user", rng.choice(WITH_WORDS).format(listed)), ("assistant", story)]
    if kind < 0.90:
        cut = re.match(r"(.{20,200}?[.!?]\"?)\s+(.{80,})", story, re.DOTALL)
        if cut and rng.random() < 0.5:
            return [("user", rng.choice(CONTINUE).format(cut.group(1))), ("assistant", cut.group(2))]
        if cut:
            return [("user", rng.choice(BEGIN).format(cut.group(1))), ("assistant", story)]
    return [("user", rng.choice(PLAIN)), ("assistant", story)]


def own_pairs(path: Path) -> list[Row]:
    """Our own small talk: each row lists ways to say something, a tab, and ways to answer."""
    rows = []
    for line in path.read_text(encoding="utf-8").strip().split("\n"):
        prompts, answers = line.split("\t")
        rows.append((prompts.split(" / "), [answer.replace("\\n", "\n") for answer in answers.split(" / ")]))
    return rows


def story_sessions(
    stories: list[str], own: list[Row], chats: list[Conversation], copies: int, seed: int
) -> Iterator[Conversation]:
    """Each story asked for `copies` times, some in sessions with talk before and another story after."""
    rng = random.Random(seed)
    thanks = [row for row in own if row[0][0] in ("Thank you", "That was a great story!")]
    for _ in range(copies):
        order = list(range(len(stories)))
        rng.shuffle(order)
        while order:
            talk: Conversation = []
            if rng.random() < 0.25:
                talk.append(("system", rng.choice(STORY_SYSTEMS)))
            if rng.random() < 0.2:
                talk += _small_talk(rng.choice(own), rng)
            elif rng.random() < 0.15:
                talk += rng.choice(chats)[: rng.choice((2, 4, 6))]
            talk += story_request(stories[order.pop()], rng)
            if rng.random() < 0.25:
                talk += _small_talk(rng.choice(thanks), rng)
                if order and rng.random() < 0.5:
                    talk += story_request(stories[order.pop()], rng)
            yield talk


def _small_talk(row: Row, rng: random.Random) -> Conversation:
    prompt = rng.choice(row[0])
    if rng.random() < 0.2:
        prompt = prompt.lower()
    return [("user", prompt), ("assistant", rng.choice(row[1]))]


def small_talk(own: list[Row], rows: Iterable[dict[str, str]], seed: int) -> Iterator[Conversation]:
    """Short sessions of our own pairs (forty rounds) and of the friendly part of the small-talk collections."""
    rng = random.Random(seed)
    for _ in range(40):
        deck = list(own)
        rng.shuffle(deck)
        while deck:
            talk: Conversation = [("system", rng.choice(STORY_SYSTEMS))] if rng.random() < 0.15 else []
            for _ in range(rng.choice((1, 1, 2, 3))):
                if deck:
                    talk += _small_talk(deck.pop(), rng)
            yield talk
    answers: Counter[str] = Counter()
    for row in rows:
        prompt, response = row["prompt"].strip(), row["response"].strip()
        if row["source"] == "Bot Framework small talk" and not ROBOTIC.search(prompt + response):
            answers[response] += 1
            # A few stock answers ("Great!") stand for dozens of prompts; more would make every answer one of them.
            if answers[response] <= 8:
                yield [("user", prompt), ("assistant", response)]


def conversations(rows: Iterable[dict[str, str]]) -> Iterator[tuple[str, Conversation]]:
    """(source, conversation) for each run of turns without a gap, both ways round for the persona chats."""
    threads: defaultdict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for row in rows:
        if "conv" in row:
            turn = int(row["turn"])
            thread = threads[row["source"], row["conv"]]
            thread[turn], thread[turn + 1] = row["prompt"].strip(), row["response"].strip()
    for (source, _), thread in threads.items():
        run: list[str] = []
        for turn in range(max(thread) + 2):
            text = thread.get(turn, "")
            if text and not PLACEHOLDER.search(text) and not NAMES.search(text):
                run.append(text)
                continue
            yield from ((source, talk) for talk in _both_ways(run))
            run = []


def _both_ways(run: list[str]) -> Iterator[Conversation]:
    roles = ("user", "assistant")
    for start in (0, 1):
        part = run[start:]
        part = part[: len(part) // 2 * 2]
        if len(part) >= 2:
            yield [(roles[i % 2], text) for i, text in enumerate(part)]


def single_pairs(rows: Iterable[dict[str, str]], source: str) -> Iterator[Conversation]:
    """The rows of a collection of unconnected pairs."""
    for row in rows:
        if row["source"] == source and len(row["response"]) > 1:
            yield [("user", row["prompt"].strip()), ("assistant", row["response"].strip())]
