"""The drawing kernels against the meaning of the `sample` op, token for token."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from plait.ops.cuda.draws import KnownFacts, draw_arrays, outcomes  # noqa: E402
from plait.ops.cuda.kernels.sample import Draws, draw  # noqa: E402
from plait.ops.sampling import SampleRow, sample_rows  # noqa: E402
from plait.types import LLAMA_CPP_CHAIN, OPENAI_CHAIN, SamplerStage, SamplingParams  # noqa: E402
from support.triton_interpreter import DEVICE  # noqa: E402 - torch may be missing

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("one_torch_thread")]
VOCABULARY = 3000


def drawn_by_kernels(logits: np.ndarray, rows: list[SampleRow], drawn: list[int] | None = None) -> list[object]:
    assert KnownFacts(len(rows)).drawn_on_device(rows)
    arrays = draw_arrays(range(len(rows)), rows)
    made = Draws(*(torch.tensor(a, device=DEVICE) for a in (arrays.ints, arrays.floats, arrays.history)), arrays.copy)
    tokens = torch.tensor(drawn or [0] * len(rows), dtype=torch.int32, device=DEVICE)
    status = torch.zeros(len(rows), dtype=torch.int32, device=DEVICE)
    draw(torch.tensor(logits, device=DEVICE), made, tokens, status)
    return outcomes(tokens.tolist(), status.tolist(), logits.shape[1])


def random_row(rng: np.random.Generator, chain: tuple[SamplerStage, ...]) -> SampleRow:
    params = SamplingParams(
        temperature=float(rng.choice([0, 0.6, 1, 1.7])), top_k=int(rng.choice([0, 1, 2, 40, 500])),
        top_p=float(rng.choice([1, 0.999, 0.9, 0.3])), min_p=float(rng.choice([0, 0.05, 0.3])), samplers=chain,
        repeat_penalty=float(rng.choice([1, 1.3])), frequency_penalty=0.2, presence_penalty=0.1,
        seed=int(rng.integers(2**63)) * 2 + 1, repeat_last_n=int(rng.choice([-1, 0, 5])),
    )  # fmt: skip
    history = rng.integers(0, VOCABULARY, 8).tolist()
    return SampleRow(params, int(rng.integers(5)), int(rng.integers(2**40)), history)


@pytest.mark.parametrize("seed", range(8))
def test_tokens_are_those_of_the_host(seed: int) -> None:
    """Every order of stages; sharp and flat logits, and such with many ties."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((4, VOCABULARY)) * rng.choice([1, 3, 8])).astype(np.float32)
    if seed % 3 == 0:
        logits = np.round(logits)
    inner = [SamplerStage.TOP_K, SamplerStage.TOP_P, SamplerStage.MIN_P, SamplerStage.TEMPERATURE]
    shuffled = (SamplerStage.PENALTIES, *(inner[i] for i in rng.permutation(4)))
    rows = [random_row(rng, chain) for chain in (LLAMA_CPP_CHAIN, OPENAI_CHAIN, shuffled, shuffled)]
    want = [sampled.token for sampled in sample_rows(logits, rows)]
    assert [sampled.token for sampled in drawn_by_kernels(logits, rows)] == want


def test_a_history_may_end_with_a_token_that_is_only_on_the_device() -> None:
    logits = np.array([[5.0, 4.9, 4.0], [5.0, 4.9, 4.0]], np.float32)
    params = SamplingParams(temperature=0.0, repeat_penalty=2.0)
    rows = [SampleRow(params, 0, 3, [-2]), SampleRow(params, 0, 3, [-1])]
    assert [sampled.token for sampled in drawn_by_kernels(logits, rows, [1, 0])] == [1, 0]


def test_rows_that_are_not_sound_fail_alone_in_the_words_of_the_host() -> None:
    logits = np.zeros((4, 50), np.float32)
    logits[0, 7], logits[1, 3:5], logits[2] = np.nan, np.inf, -np.inf
    rows = [SampleRow(SamplingParams(seed=1), 0, 1, ()) for _ in range(4)]
    for got, want in zip(drawn_by_kernels(logits, rows), sample_rows(logits, rows), strict=True):
        assert (got.token, str(got.error)) == (want.token, str(want.error))


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(seed=1, logit_bias=((1, 2.0),)), SamplingParams(seed=1, logprobs=0),
        SamplingParams(seed=1, typical_p=0.5), SamplingParams(seed=1, dry_multiplier=0.8), SamplingParams(),
        SamplingParams(seed=1, xtc_probability=0.5), SamplingParams(seed=1, top_n_sigma=1.0),
        SamplingParams(seed=1, mirostat=2),
    ],
)  # fmt: skip
def test_what_only_the_host_draws_is_left_to_it(params: SamplingParams) -> None:
    rows = [SampleRow(SamplingParams(seed=1), 0, 1, ()), SampleRow(params, 0, 1, ())]
    known = KnownFacts(2)
    assert known.drawn_on_device(rows[:1])
    assert not known.drawn_on_device(rows)


def test_parameters_remembered_and_forgotten_give_what_they_give_anew() -> None:
    """Rows that come and go over more parameters than are remembered, with positions beyond 32 bits, and a mask."""
    rng = np.random.default_rng(1)
    rows = [random_row(rng, LLAMA_CPP_CHAIN)._replace(history=[1] * int(rng.integers(4))) for _ in range(12)]
    known = KnownFacts(5)
    for _ in range(30):
        chosen = [rows[i] for i in rng.choice(12, int(rng.integers(1, 6)))]
        picks = rng.integers(0, 50, len(chosen)).tolist()
        assert known.drawn_on_device(chosen)
        assert not known.drawn_on_device([*chosen[:-1], chosen[-1]._replace(mask=np.zeros(1, np.uint32))])
        got, alone = (
            draw_arrays(picks, chosen, known),
            [draw_arrays([p], [r]) for p, r in zip(picks, chosen, strict=True)],
        )
        np.testing.assert_array_equal(got.floats, np.concatenate([one.floats for one in alone]))
        own = [0, 1, 2, 3, 4, 5, *range(8, got.ints.shape[1])]
        np.testing.assert_array_equal(got.ints[:, own], np.concatenate([one.ints for one in alone])[:, own])
        assert got.copy == any(one.copy for one in alone)
        for (start, count), one in zip(got.ints[:, 6:8].tolist(), alone, strict=True):
            assert got.history[start : start + count].tolist() == one.history[: one.ints[0, 7]].tolist()
        seeds = got.ints.view(np.uint32)[:, 1:3].astype(np.uint64)
        assert (seeds[:, 0] | seeds[:, 1] << np.uint64(32)).tolist() == [row.params.seed for row in chosen]
        assert got.ints[:, 5].tolist() == [row.position >> 32 for row in chosen]


@pytest.mark.parametrize("chain", [LLAMA_CPP_CHAIN, OPENAI_CHAIN])
def test_no_share_at_all_leaves_the_most_probable(chain: tuple[SamplerStage, ...]) -> None:
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((3, VOCABULARY)).astype(np.float32)
    logits[2] = np.round(logits[2])
    params = [SamplingParams(seed=s, top_p=0.0, top_k=0, min_p=0.0, temperature=1.3, samplers=chain) for s in range(3)]
    rows = [SampleRow(each, 0, 9, ()) for each in params]
    want = [sampled.token for sampled in sample_rows(logits, rows)]
    assert [sampled.token for sampled in drawn_by_kernels(logits, rows)] == want
    assert want[:2] == logits[:2].argmax(1).tolist()
