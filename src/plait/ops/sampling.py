"""From logits to tokens: the meaning of the `sample` op.

One row at a time, never looking at its neighbours: a row's token depends on its logits, parameters, history and the key
(seed, sample index, position), and a row that fails fails alone. Knows numpy and the parameters of `plait.types`;
knows no model, no backend and no scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from plait.errors import PlaitError, RequestError, StepError
from plait.formats.tensor import F32Array
from plait.ops import candidates as stages
from plait.ops.candidates import Candidates, FloatArray
from plait.ops.mirostat import draw_mirostat
from plait.ops.penalties import bias, dry, penalise
from plait.ops.random import XTC_STREAM, token_uniform
from plait.types import Logprob, SamplerStage, SamplingParams

U32Array: TypeAlias = npt.NDArray[np.uint32]

GATHER_ROWS = 32
"""Rows of logits copied at a time where several samples draw from one row."""


class SampleRow(NamedTuple):
    """How to sample one row. `history` are all tokens before `position`, the prompt's included (it may be empty when
    no stage of the chain looks at it); `dry_breaker_ids` are the DRY breakers as sequences of token ids.

    `mask` says which tokens may be chosen: uint32, (ceil(vocabulary / 32),), bit i % 32 of word i // 32 set for an
    allowed token i (llguidance's format). None allows all.

    `mu` is Mirostat's state, in bits: what the token before yielded; None at the beginning."""

    params: SamplingParams
    sample_index: int
    position: int
    history: Sequence[int]
    dry_breaker_ids: tuple[tuple[int, ...], ...] = ()
    mask: U32Array | None = None
    mu: float | None = None


class Sampled(NamedTuple):
    """What one row yields: a token, or an error (then `token` is -1 and `logprobs` is empty).

    `logprobs` (empty unless `params.logprobs` is set) holds the chosen token first, then the `params.logprobs` most
    likely tokens of the whole vocabulary, most likely first, the chosen one among them if it is one of them. `mu` is
    Mirostat's state for the next token, None where it had no part."""

    token: int
    logprobs: tuple[Logprob, ...]
    error: Exception | None
    mu: float | None = None


def sample_rows(logits: F32Array, rows: Sequence[SampleRow]) -> list[Sampled]:
    """Draws one token for each row of `logits`, (L, vocabulary), which is not changed.

    The chain: the mask gives -inf to what it forbids; then logit_bias, then the stages of `params.samplers` in their
    order, then the draw by inverse CDF over the candidates in token-id order. With Mirostat the chain is the
    temperature alone, and the draw `ops.mirostat`'s. At temperature 0 the token is the
    largest logit (the lowest id, if several) after mask, bias and whichever of penalties and DRY the chain names.

    A row's `error` is a StepError when its logits hold NaN or +inf or nothing above -inf, before or after mask, bias
    and penalties, or when the mask is for another vocabulary; a RequestError when its parameters do not fit (a bias
    outside the vocabulary, a draw without a seed).
    """
    assert len(logits) == len(rows), f"{len(logits)} rows of logits for {len(rows)} rows to sample"
    # Overflow to an infinity is found by `_check_logits`.
    with np.errstate(over="ignore", invalid="ignore"):
        return [_sample_or_fail(row_logits, row) for row_logits, row in zip(logits, rows, strict=True)]


def sample_picks(logits: F32Array, picks: Sequence[int], rows: Sequence[SampleRow]) -> list[Sampled]:
    """`sample_rows`, where rows[i] draws from row picks[i] of `logits`; several may draw from one."""
    if list(picks) == list(range(len(logits))):
        return sample_rows(logits, rows)
    drawn: list[Sampled] = []
    for start in range(0, len(picks), GATHER_ROWS):
        part = slice(start, start + GATHER_ROWS)
        drawn += sample_rows(logits[np.array(picks[part])], rows[part])
    return drawn


def _sample_or_fail(logits: F32Array, row: SampleRow) -> Sampled:
    try:
        _check_logits(logits, MODEL_LOGITS)
        token, mu = _choose(logits, row)
    except PlaitError as error:
        return Sampled(-1, (), error)
    return Sampled(token, _logprobs(logits, token, row.params.logprobs), None, mu)


def _choose(logits: F32Array, row: SampleRow) -> tuple[int, float | None]:
    """The token, and Mirostat's next state."""
    params = row.params
    candidates = Candidates(None, logits)
    if row.mask is not None:
        candidates = Candidates(None, _allowed(logits, row.mask))
        _check_logits(candidates.logits, MASKED_LOGITS)
    if params.logit_bias:
        candidates = bias(candidates, params.logit_bias)
        _check_logits(candidates.logits, BIASED_LOGITS)
    greedy = params.temperature == 0
    for stage in params.chain:
        penalty = stage in (SamplerStage.PENALTIES, SamplerStage.DRY)
        if greedy and not penalty:
            continue
        before, candidates = candidates, _apply(stage, candidates, row)
        if penalty and candidates is not before:
            _check_logits(candidates.logits, logits_after(stage))
    if greedy:
        return candidates.token(int(candidates.logits.argmax())), None
    if params.seed is None:
        raise no_seed()
    uniform = token_uniform(params.seed, row.sample_index, row.position)
    if params.mirostat:
        return draw_mirostat(candidates, params, row.mu, uniform, len(logits))
    return stages.draw(candidates, uniform), None


def _apply(stage: SamplerStage, candidates: Candidates, row: SampleRow) -> Candidates:
    params = row.params
    match stage:
        case SamplerStage.PENALTIES:
            return penalise(candidates, params, row.history)
        case SamplerStage.DRY:
            return dry(candidates, params, row.history, row.dry_breaker_ids)
        case SamplerStage.TOP_N_SIGMA:
            return stages.top_n_sigma(candidates, params.top_n_sigma)
        case SamplerStage.TOP_K:
            return stages.top_k(candidates, params.top_k)
        case SamplerStage.TYPICAL_P:
            return stages.typical_p(candidates, params.typical_p)
        case SamplerStage.TOP_P:
            return stages.top_p(candidates, params.top_p)
        case SamplerStage.MIN_P:
            return stages.min_p(candidates, params.min_p)
        case SamplerStage.XTC:
            return _xtc(candidates, row)
        case SamplerStage.TEMPERATURE:
            return stages.temperature(candidates, params.temperature)
        case _:
            assert_never(stage)


def _xtc(candidates: Candidates, row: SampleRow) -> Candidates:
    params = row.params
    if params.xtc_probability == 0:
        return candidates
    if params.seed is None:
        raise no_seed()
    chance = token_uniform(params.seed, row.sample_index, row.position, XTC_STREAM)
    return candidates if chance > params.xtc_probability else stages.xtc(candidates, params.xtc_threshold)


def _allowed(logits: F32Array, mask: U32Array) -> F32Array:
    if len(mask) != mask_words(len(logits)):
        raise wrong_mask(len(mask), len(logits))
    bits = np.unpackbits(mask.astype("<u4").view(np.uint8), bitorder="little", count=len(logits))
    return np.where(bits, logits, np.float32(-np.inf))


def mask_words(vocabulary: int) -> int:
    """Words of a token mask."""
    return -(-vocabulary // 32)


def _check_logits(logits: FloatArray, what: str) -> None:
    """Raises StepError unless the largest logit is finite: NaN and +inf are larger than any number to argmax."""
    largest: Any = logits[logits.argmax()]
    if math.isfinite(largest):
        return
    if largest == -math.inf:
        raise nothing_possible(what)
    raise not_finite(what, int(np.count_nonzero(~(logits < math.inf))), len(logits))


def _logprobs(logits: F32Array, token: int, count: int | None) -> tuple[Logprob, ...]:
    """Log-softmax of the raw logits in float64, natural logarithm: `token`, then the `count` most likely tokens."""
    if count is None:
        return ()
    shifted = logits.astype(np.float64) - logits.max()
    log_sum = math.log(np.exp(shifted).sum())
    best = stages.largest(logits, count) if count else np.zeros(0, np.int64)
    ranked = best[np.argsort(-logits[best], kind="stable")].tolist()
    likely = [t for t in ranked if shifted[t] > -math.inf]
    return tuple(Logprob(t, float(shifted[t]) - log_sum) for t in (token, *likely))


# --- what goes wrong with a row; the same words from every backend ---------------------------------------------

MODEL_LOGITS = "the model's logits"
MASKED_LOGITS = "the logits after the token mask"
BIASED_LOGITS = "the logits after logit_bias"


def logits_after(stage: SamplerStage) -> str:
    return f"the logits after {stage}"


def nothing_possible(what: str) -> StepError:
    return StepError(f"{what} are all -inf: no token can be chosen")


def not_finite(what: str, bad: int, total: int) -> StepError:
    return StepError(f"{what} are not finite: {bad} of {total} are NaN or +inf")


def wrong_mask(words: int, vocabulary: int) -> StepError:
    return StepError(
        f"the token mask has {words} words of 32 tokens; a vocabulary of {vocabulary} needs {mask_words(vocabulary)}"
    )


def no_seed() -> RequestError:
    return RequestError("a draw needs a seed; set SamplingParams.seed, or temperature 0")
