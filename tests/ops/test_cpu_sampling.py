"""The native sampler against its meaning, `ops.sampling`: the same token, error and log-probabilities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.formats.tensor import F32Array
from plait.ops import sampling as meaning
from plait.ops.cpu import CpuBackend, _native
from plait.ops.cpu.sampling import PackedParams, sample_natively
from plait.ops.random import token_uniform
from plait.ops.sampling import Sampled, SampleRow, sample_rows
from plait.types import LLAMA_CPP_CHAIN, OPENAI_CHAIN, SamplerStage, SamplingParams

PATHS = CpuBackend.paths()
NEAR = 1e-9
"""How near, relatively, a sum must be to a boundary for rounding to decide."""
INF, NAN = math.inf, math.nan


class Native:
    """A sampler without a model."""

    def __init__(self, path: str = PATHS[0], threads: int = 1) -> None:
        shape = _native.KvShape(1, 1, 16, 16, 16, _native.KvType.F32, [([0], 0, 2)])
        self._program = _native.Program(path, shape, threads)
        self._packed = PackedParams()

    def __call__(
        self, logits: F32Array, rows: Sequence[SampleRow], picks: Sequence[int] | None = None
    ) -> list[Sampled]:
        return sample_natively(self._program, self._packed, logits, picks or range(len(rows)), rows)


NATIVE = Native()


def nudged(row: SampleRow) -> Iterator[tuple[SampleRow, float]]:
    """The row with every share of probability, and the uniform number, moved by no more than rounding may move them."""
    p = row.params
    factors = (1.0, 1 - NEAR, 1 + NEAR)
    for top, typical, least, rarer, uniform in itertools.product(factors, repeat=5):
        params = replace(
            p,
            top_p=min(p.top_p * top, 1.0),
            typical_p=min(p.typical_p * typical, 1.0),
            min_p=min(p.min_p * least, 1.0),
            top_n_sigma=p.top_n_sigma * rarer,
            xtc_threshold=min(p.xtc_threshold * rarer, 1.0),
        )
        mu = (2 * p.mirostat_tau if row.mu is None else row.mu) * rarer
        yield row._replace(params=params, mu=mu), uniform


def assert_agree(logits: F32Array, row: SampleRow, ours: Sampled) -> bool:
    """Whether the token is the definition's; fails unless it is, or rounding may have chosen it."""
    theirs = sample_rows(logits[None], [row])[0]
    assert type(ours.error) is type(theirs.error)
    assert str(ours.error) == str(theirs.error)
    if ours.token != theirs.token:
        assert row.params.temperature > 0
        assert ours.token in {token_of(logits, moved, factor) for moved, factor in nudged(row)}
        return False
    assert (ours.mu is None) == (theirs.mu is None)
    if ours.mu is not None:
        assert ours.mu == pytest.approx(theirs.mu, rel=1e-9)
    assert [entry.token for entry in ours.logprobs] == [entry.token for entry in theirs.logprobs]
    for mine, its in zip(ours.logprobs, theirs.logprobs, strict=True):
        assert mine.logprob == pytest.approx(its.logprob, rel=1e-12, abs=1e-12)
    return True


def token_of(logits: F32Array, row: SampleRow, factor: float) -> int:
    """The definition's token with its uniform number multiplied by `factor`."""
    with pytest.MonkeyPatch.context() as patch:
        # XTC's own number decides nothing that rounding reaches.
        moved = lambda *key: token_uniform(*key) * (factor if len(key) == 3 else 1.0)  # noqa: E731
        patch.setattr(meaning, "token_uniform", moved)
        return sample_rows(logits[None], [row])[0].token


params_strategy = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 5e-324, 0.3, 0.8, 1.0, 2.0, 100.0]),
    top_k=st.sampled_from([0, 1, 2, 7, 40, 150, 1000, 2**31 - 1]),
    top_p=st.sampled_from([0.0, 0.123, 0.7, 0.95, 1 - 1e-16, 1.0]),
    min_p=st.sampled_from([0.0, 1e-300, 0.05, 0.5, 1.0]),
    typical_p=st.sampled_from([0.0, 0.31, 0.9, 1.0, 1.0]),
    repeat_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.5, 100.0]),
    repeat_last_n=st.sampled_from([-1, 0, 3, 64]),
    presence_penalty=st.sampled_from([0.0, 0.7, -1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.3]),
    dry_multiplier=st.sampled_from([0.0, 0.8]),
    dry_allowed_length=st.integers(0, 2),
    logit_bias=st.sampled_from([(), ((3, 2.0), (5, -INF), (3, 0.1)), ((2**31 - 1, 1.0),)]),
    top_n_sigma=st.sampled_from([-1.0, -1.0, 0.0, 1e-9, 0.7, 1.5, 50.0]),
    xtc_probability=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
    xtc_threshold=st.sampled_from([0.0, 1e-300, 0.02, 0.1, 0.5, 0.6]),
    mirostat=st.sampled_from([0, 0, 0, 1, 2]),
    mirostat_tau=st.sampled_from([0.0, 2.0, 5.0, 100.0]),
    mirostat_eta=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    logprobs=st.sampled_from([None, None, 0, 5, 100]),
    samplers=st.one_of(
        st.permutations(LLAMA_CPP_CHAIN).map(tuple), st.lists(st.sampled_from(SamplerStage), unique=True)
    ),
)

SPECIAL = np.array([-INF, 0.0, -0.0, 1e-45, -3.4e38, 3.4e38, 88.0], np.float32)


@st.composite
def logit_rows(draw: st.DrawFn) -> F32Array:
    """Of many sizes: with ties, without, with infinities and extremes, and some that no row may have."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.sampled_from([1, 6, 15, 16, 31, 40, 255, 513, 3000]))
    kind = draw(st.sampled_from(["grid", "normal", "flat", "peaked", "special"]))
    values = {
        "grid": lambda: rng.integers(-40, 40, size) / 16,
        "normal": lambda: rng.normal(0, 3, size),
        "flat": lambda: np.full(size, 1.5),
        "peaked": lambda: rng.normal(0, 3, size) ** 3,
        "special": lambda: np.where(rng.random(size) < 0.3, rng.choice(SPECIAL, size), rng.normal(0, 3, size)),
    }[kind]()
    logits = values.astype(np.float32)
    logits[rng.random(size) < draw(st.sampled_from([0, 0, 0.5]))] = -INF
    if draw(st.integers(0, 9)) == 0:
        logits[rng.integers(size)] = draw(st.sampled_from([NAN, -NAN, INF, -INF]))
    return logits


@st.composite
def masks(draw: st.DrawFn, size: int) -> np.ndarray | None:
    kind = draw(st.sampled_from(["none", "none", "all", "half", "few", "nothing", "short"]))
    words = meaning.mask_words(size)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    share = {"all": 1.0, "half": 0.5, "few": 0.01, "nothing": 0.0, "short": 1.0}
    if kind == "none":
        return None
    bits = rng.random(32 * words) < share[kind]
    mask = np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)
    return mask[1:] if kind == "short" else mask


@st.composite
def cases(draw: st.DrawFn) -> tuple[F32Array, SampleRow]:
    logits = draw(logit_rows())
    history = tuple(draw(st.lists(st.integers(-1, min(len(logits), 8)), max_size=20)))
    params = draw(params_strategy)
    return logits, SampleRow(
        params,
        draw(st.integers(0, 3)),
        draw(st.integers(0, 2**40)),
        history,
        ((7,),),
        draw(masks(len(logits))),
        draw(st.sampled_from([None, -3.0, 0.0, 1.7, 6.0, 2000.0])),
    )


@settings(max_examples=400, deadline=None)
@given(cases())
def test_any_row_gives_the_token_of_the_definition(case: tuple[F32Array, SampleRow]) -> None:
    logits, row = case
    assert_agree(logits, row, NATIVE(logits[None], [row])[0])


CHAINS = {
    "greedy": SamplingParams(temperature=0),
    "default": SamplingParams(),
    "all": SamplingParams(temperature=1, top_k=0, top_p=1, min_p=0, samplers=OPENAI_CHAIN),
    "top_p": SamplingParams(temperature=0.9, top_k=0, top_p=0.9, min_p=0, samplers=OPENAI_CHAIN),
    "top_p first": SamplingParams(temperature=1.3, top_k=0, top_p=0.9, min_p=0),
    "min_p": SamplingParams(temperature=0.7, top_k=0, top_p=1, min_p=0.02, samplers=OPENAI_CHAIN),
    "typical": SamplingParams(temperature=1, top_k=0, top_p=1, min_p=0, typical_p=0.8),
    "many": SamplingParams(top_k=500, top_p=0.99, min_p=0, logprobs=20),
    "top_n_sigma": SamplingParams(top_n_sigma=1.5, top_k=0, top_p=1, min_p=0),
    "xtc": SamplingParams(xtc_probability=0.7, xtc_threshold=0.01, top_k=0, min_p=0.001),
    "xtc of all": SamplingParams(xtc_probability=1, xtc_threshold=0.001, top_k=0, top_p=1, min_p=0),
    "mirostat 1": SamplingParams(mirostat=1, mirostat_tau=4),
    "mirostat 2": SamplingParams(mirostat=2, mirostat_tau=4),
    "penalties": SamplingParams(top_k=0, repeat_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.1),
}


@pytest.mark.parametrize("name", CHAINS)
def test_thousands_of_random_rows_give_the_token_of_the_definition(name: str) -> None:
    rng = np.random.default_rng(7)
    history = tuple(rng.integers(0, 8000, 100).tolist())
    agreed = 0
    for batch in range(10):
        logits = rng.normal(0, rng.choice([0.5, 2.0, 5.0]), (32, 8000 + batch)).astype(np.float32)
        rows = [SampleRow(replace(CHAINS[name], seed=batch), i, 5, history) for i in range(32)]
        for row_logits, row, ours in zip(logits, rows, NATIVE(logits, rows), strict=True):
            agreed += assert_agree(row_logits, row, ours)
    assert agreed >= 319


def test_uniform_numbers_are_those_of_the_definition() -> None:
    """Over equal logits the drawn token is the uniform number itself, to 18 bits."""
    size = 2**18
    logits = np.zeros((1, size), np.float32)
    keys = [(seed, i, 3**i) for i, seed in enumerate((0, 1, 2**32, 2**63 + 5, 2**64 - 1))]
    rows = [SampleRow(replace(CHAINS["all"], seed=seed), i, position, ()) for seed, i, position in keys]
    drawn = NATIVE(logits, rows, [0] * len(rows))
    assert [s.token for s in drawn] == [int(token_uniform(*key) * size) for key in keys]


def a_step(size: int, rows: int) -> tuple[F32Array, list[SampleRow]]:
    rng = np.random.default_rng(size)
    logits = rng.normal(0, 3, (rows, size)).astype(np.float32)
    logits[1 % rows, 3] = NAN
    mask = np.full(meaning.mask_words(size), 0xF0F0F0F0, np.uint32)
    chains = itertools.cycle(CHAINS.values())
    params = [replace(next(chains), seed=i, logprobs=(None, 3)[i % 2]) for i in range(rows)]
    return logits, [
        SampleRow(p, i, 9, tuple(range(40)), (), mask if i % 5 == 0 else None) for i, p in enumerate(params)
    ]


def same(a: Sequence[Sampled], b: Sequence[Sampled]) -> bool:
    return [(s.token, s.logprobs, str(s.error), s.mu) for s in a] == [
        (s.token, s.logprobs, str(s.error), s.mu) for s in b
    ]


@pytest.mark.parametrize("size", [100, 4099])
def test_paths_threads_and_neighbours_change_no_bit(size: int) -> None:
    logits, rows = a_step(size, 23)
    first = NATIVE(logits, rows)
    for path, threads in itertools.product(PATHS, (1, 2, 5)):
        sampler = Native(path, threads)
        assert same(sampler(logits, rows), first)
        assert same(sampler(logits[::-1].copy(), rows[::-1]), first[::-1])
        assert same([sampler(logits, [row], [i])[0] for i, row in enumerate(rows)], first)


def test_several_rows_draw_from_one_row_of_logits() -> None:
    logits, rows = a_step(500, 6)
    picks = [2, 2, 0, 5, 2, 2]
    assert same(NATIVE(logits, rows, picks), NATIVE(logits[picks], rows))


def test_the_logits_stay_as_they_were() -> None:
    logits, rows = a_step(300, 20)
    before = logits.copy()
    logits.flags.writeable = False
    NATIVE(logits, rows)
    assert np.array_equal(logits, before, equal_nan=True)


def test_a_row_that_is_not_there_is_refused() -> None:
    logits, rows = a_step(40, 1)
    with pytest.raises(ValueError, match="row 1 of 1"):
        NATIVE(logits, rows, [1])


def test_parameters_are_not_mistaken_for_others_of_the_same_identity() -> None:
    logits = np.arange(50, dtype=np.float32)[None]
    for token in [i % 50 for i in range(1200)]:
        row = SampleRow(SamplingParams(temperature=0, logit_bias=((token, 100.0),)), 0, 0, ())
        assert NATIVE(logits, [row])[0].token == token


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAINS)
def test_a_large_vocabulary(name: str) -> None:
    rng = np.random.default_rng(3)
    for scale in (0.1, 1.0, 3.0, 8.0):
        logits = rng.normal(0, scale, (4, 128_256)).astype(np.float32)
        rows = [SampleRow(replace(CHAINS[name], seed=i), 0, 5, tuple(range(100))) for i in range(4)]
        for row_logits, row, ours in zip(logits, rows, NATIVE(logits, rows), strict=True):
            assert_agree(row_logits, row, ours)
