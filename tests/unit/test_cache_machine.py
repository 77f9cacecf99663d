"""Random histories of the KV cache against the naive model, with two tokens and pools of a few pages."""

from __future__ import annotations

from cache_model import World
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from plait.cache.config import CacheConfig

SEQS = st.integers(0, 4)
TOKENS = st.lists(st.integers(0, 1), max_size=9)
PROMPTS = st.builds(lambda zeros, ones: [0] * zeros + [1] * ones, st.integers(0, 6), st.integers(0, 4))
BOUND = st.integers(-1, 9)
SALTS = st.sampled_from(["", "a"])
WINDOWS = st.sampled_from([(None,), (None,), (None, 3), (2,), (1, None, 4)])


class CacheMachine(RuleBasedStateMachine):
    @initialize(size=st.integers(1, 4), pages=st.integers(3, 12), windows=WINDOWS, block=st.sampled_from([1, 2, 4]))
    def make(self, size: int, pages: int, windows: tuple[int | None, ...], block: int) -> None:
        num_pages = tuple(pages + 2 * g for g in range(len(windows)))
        self.world = World(CacheConfig(size, num_pages, windows, block))

    def known(self, seq: int) -> int:
        ids = sorted(self.world.models)
        return ids[seq % len(ids)]

    def some(self) -> bool:
        return bool(self.world.models)

    @rule(seq=SEQS, tokens=TOKENS, salt=SALTS, reuse=st.integers(0, 9))
    def open(self, seq: int, tokens: list[int], salt: str, reuse: int) -> None:
        self.world.open(seq, tokens, salt, reuse > 0)

    @rule(tokens=st.one_of(TOKENS, PROMPTS), salt=SALTS)
    def forget(self, tokens: list[int], salt: str) -> None:
        self.world.forget(tokens, salt)

    @rule(seq=SEQS, tokens=PROMPTS, salt=SALTS, finish=st.booleans())
    def serve(self, seq: int, tokens: list[int], salt: str, finish: bool) -> None:
        self.world.serve(seq, tokens, salt, finish)

    @precondition(some)
    @rule(seq=SEQS, tokens=TOKENS)
    def reserve(self, seq: int, tokens: list[int]) -> None:
        self.world.reserve(self.known(seq), tokens)

    @precondition(some)
    @rule(seq=SEQS, token=st.integers(0, 1))
    def reserve_one(self, seq: int, token: int) -> None:
        self.world.reserve(self.known(seq), [token])

    @rule()
    def launch(self) -> None:
        self.world.launch()

    @precondition(some)
    @rule(seq=SEQS, count=st.integers(1, 9), cacheable=st.integers(0, 9))
    def commit(self, seq: int, count: int, cacheable: int) -> None:
        self.world.commit(self.known(seq), count, cacheable > 0)

    @precondition(some)
    @rule(seq=SEQS, tokens=TOKENS)
    def run_alone(self, seq: int, tokens: list[int]) -> None:
        """Reserve, run and commit without a step in flight."""
        self.world.reserve(self.known(seq), tokens)
        self.world.launch()
        self.world.commit(self.known(seq), len(tokens), True)

    @precondition(some)
    @rule(seq=SEQS, length=st.integers(0, 12))
    def truncate(self, seq: int, length: int) -> None:
        self.world.truncate(self.known(seq), length)

    @precondition(some)
    @rule(seq=SEQS, tokens=TOKENS)
    def roll_back(self, seq: int, tokens: list[int]) -> None:
        self.world.roll_back(self.known(seq), tokens)

    @precondition(some)
    @rule(seq=SEQS, dst=SEQS)
    def fork(self, seq: int, dst: int) -> None:
        self.world.fork(self.known(seq), dst)

    @precondition(some)
    @rule(seq=SEQS)
    def share_tail(self, seq: int) -> None:
        self.world.share_tail(self.known(seq))

    @precondition(some)
    @rule(seq=SEQS)
    def close(self, seq: int) -> None:
        self.world.close(self.known(seq))

    @rule(
        seqs=st.lists(SEQS, min_size=1, max_size=3, unique=True).map(tuple),
        token=st.integers(0, 1),
        count=st.integers(1, 5),
        first=st.none() | st.integers(0, 5),
    )
    def reserve_shared(self, seqs: tuple[int, ...], token: int, count: int, first: int | None) -> None:
        self.world.reserve_shared(seqs, token, count, first)

    @rule(src=SEQS, dst=SEQS, p0=BOUND, p1=BOUND)
    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        self.world.seq_cp(src, dst, p0, p1)

    @rule(seq=st.integers(-1, 4), p0=BOUND, p1=BOUND)
    def seq_rm(self, seq: int, p0: int, p1: int) -> None:
        self.world.seq_rm(seq, p0, p1)

    @rule(seq=SEQS, everything=st.integers(0, 4))
    def seq_keep(self, seq: int, everything: int) -> None:
        if everything == 4:
            self.world.clear()
        else:
            self.world.seq_keep(seq)

    @rule(seq=SEQS, p0=BOUND, p1=BOUND, delta=st.integers(-4, 4))
    def seq_add(self, seq: int, p0: int, p1: int, delta: int) -> None:
        self.world.seq_add(seq, p0, p1, delta)

    @rule(seq=SEQS, p0=BOUND, p1=BOUND, d=st.integers(1, 3))
    def seq_div(self, seq: int, p0: int, p1: int, d: int) -> None:
        self.world.seq_div(seq, p0, p1, d)

    @precondition(some)
    @rule(seq=SEQS, tokens=PROMPTS)
    def overlap(self, seq: int, tokens: list[int]) -> None:
        """The next step is planned before the last one is committed."""
        seq = self.known(seq)
        self.world.launch()
        computed = self.world.uncommitted(seq)
        self.world.reserve(seq, tokens)
        self.world.commit(seq, computed, True)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.launch()
            self.world.clear()


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
