"""A hundred thousand random rounds over small pools, against the naive model."""

from __future__ import annotations

import random

import pytest
from cache_model import World

from plait.cache.config import CacheConfig

CONFIGS = [
    CacheConfig(1, (9,), (None,), 1),
    CacheConfig(3, (8,), (None,), 4),
    CacheConfig(2, (14,), (None,), 4),
    CacheConfig(4, (20,), (None,), 4),
    CacheConfig(1, (12,), (3,), 2),
    CacheConfig(2, (12, 9), (None, 3), 2),
    CacheConfig(2, (8, 12, 10), (1, None, 5), 4),
    CacheConfig(3, (12, 12), (None, None), 1),
]


class Rounds:
    """Draws one operation after another; those of a server are frequent, those on positions rare."""

    def __init__(self, config: CacheConfig, seed: int) -> None:
        self.world = World(config)
        self.draw = random.Random(seed)
        scheduler = (
            [self.serve] * 5 + [self.overlap] * 8 + [self.one] * 8 + [self.reserve, self.launch, self.commit] * 2
        )
        lives = [self.open, self.truncate, self.fork, self.fork, self.close, self.roll_back, self.share_tail] * 2
        memory = [self.shared, self.seq_cp, self.seq_rm, self.seq_add, self.seq_div, self.seq_keep]
        self.operations = scheduler + lives + memory

    def round(self) -> None:
        self.draw.choice(self.operations)()
        self.world.check()

    def seq(self) -> int:
        return self.draw.randrange(6)

    def known(self) -> int:
        if not self.world.models:
            self.world.open(0, [], "", True)
        return self.draw.choice(sorted(self.world.models))

    def tokens(self) -> list[int]:
        return [0] * self.draw.randrange(9) + [1] * self.draw.randrange(4)

    def bound(self) -> int:
        return self.draw.randrange(-1, 10)

    def salt(self) -> str:
        return self.draw.choice(["", "", "a"])

    def serve(self) -> None:
        self.world.serve(self.seq(), self.tokens(), self.salt(), self.draw.random() < 0.6)

    def open(self) -> None:
        self.world.open(self.seq(), self.tokens(), self.salt(), self.draw.random() < 0.9)

    def overlap(self) -> None:
        seq = self.known()
        self.world.launch()
        computed = self.world.uncommitted(seq)
        self.world.reserve(seq, [self.draw.randrange(2) for _ in range(self.draw.randrange(1, 4))])
        self.world.commit(seq, computed, self.draw.random() < 0.98)

    def one(self) -> None:
        self.world.reserve(self.known(), [0])

    def reserve(self) -> None:
        self.world.reserve(self.known(), self.tokens())

    def launch(self) -> None:
        self.world.launch()

    def commit(self) -> None:
        self.world.commit(self.known(), self.draw.randrange(1, 9), True)

    def truncate(self) -> None:
        seq = self.known()
        length = self.world.cache.length(seq)
        self.world.truncate(seq, max(0, length - self.draw.randrange(5)))

    def roll_back(self) -> None:
        self.world.roll_back(self.known(), self.tokens())

    def fork(self) -> None:
        self.world.fork(self.known(), self.seq())

    def close(self) -> None:
        self.world.close(self.known())

    def share_tail(self) -> None:
        self.world.share_tail(self.known())

    def shared(self) -> None:
        seqs = tuple(self.draw.sample(range(6), self.draw.randrange(1, 4)))
        first = self.draw.choice([None, None, 0, 1, self.world.cache.seq_pos_max(seqs[0]) + 1])
        self.world.reserve_shared(seqs, self.draw.randrange(2), self.draw.randrange(1, 5), first)

    def seq_cp(self) -> None:
        self.world.seq_cp(self.known(), self.seq(), self.bound(), self.bound())

    def seq_rm(self) -> None:
        self.world.seq_rm(self.seq() if self.draw.random() < 0.9 else -1, self.bound(), self.bound())

    def seq_add(self) -> None:
        self.world.seq_add(self.known(), self.bound(), self.bound(), self.draw.randrange(-4, 5))

    def seq_div(self) -> None:
        self.world.seq_div(self.known(), self.bound(), self.bound(), self.draw.randrange(1, 4))

    def seq_keep(self) -> None:
        choice = self.draw.random()
        if choice < 0.1:
            self.world.clear()
        elif choice < 0.4:
            self.world.seq_keep(self.seq())


def play(config: CacheConfig, seed: int, count: int) -> None:
    rounds = Rounds(config, seed)
    for _ in range(count):
        rounds.round()
    rounds.world.launch()
    rounds.world.clear()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_short(config: CacheConfig) -> None:
    play(config, 1, 300)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_hundred_thousand_rounds(config: CacheConfig) -> None:
    play(config, 2, 100_000 // len(CONFIGS))
