"""Rows to sample as one record of bytes for the extension, and its answer as rows again.

Knows the layout of SampleRecord in native/program/sample.h and the meaning in `ops.sampling`; chooses no tokens. What
depends on the parameters alone is packed once for each `SamplingParams`. DRY's penalties are computed here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plait.errors import PlaitError
from plait.formats.tensor import F32Array
from plait.ops import sampling as meaning
from plait.ops.candidates import F64Array, IndexArray
from plait.ops.cpu import _native
from plait.ops.penalties import dry_penalties, last_tokens, penalises, unknown_bias
from plait.ops.sampling import Sampled, SampleRow, U32Array
from plait.types import Logprob, SamplerStage, SamplingParams

_PARAMS = struct.Struct("<12dQii12sBBBx")
_ROW = struct.Struct("<iIQiiiid")
_MOST_TOKENS = 2**31 - 1
_MASK_32, _MASK_64 = 2**32 - 1, 2**64 - 1
_REMEMBERED = 1024

_STAGE_NUMBERS = {
    SamplerStage.PENALTIES: 1,
    SamplerStage.DRY: 2,
    SamplerStage.TOP_K: 3,
    SamplerStage.TYPICAL_P: 4,
    SamplerStage.TOP_P: 5,
    SamplerStage.MIN_P: 6,
    SamplerStage.TEMPERATURE: 7,
    SamplerStage.TOP_N_SIGMA: 8,
    SamplerStage.XTC: 9,
}
_POINTS = (
    meaning.MODEL_LOGITS,
    meaning.MASKED_LOGITS,
    meaning.BIASED_LOGITS,
    meaning.logits_after(SamplerStage.PENALTIES),
    meaning.logits_after(SamplerStage.DRY),
)
"""By number of SamplePoint."""
_NOT_FINITE, _ALL_MINUS_INFINITY, _UNKNOWN_BIAS, _WRONG_MASK = 1, 2, 3, 4
"""SampleError's; the last one is a draw without a seed."""
_NO_TOKENS: IndexArray = np.zeros(0, np.int64)
_NO_VALUES: F64Array = np.zeros(0, np.float64)


@dataclass(frozen=True, slots=True)
class _Packed:
    """`params` is held so that its identity stays its own."""

    params: SamplingParams
    record: bytes
    penalties: bool
    dry: bool
    plain: bool  # nothing but the record
    first_mu: float
    biased: IndexArray
    biases: F64Array


class PackedParams:
    """The packed form of each `SamplingParams` that was used lately, by identity."""

    def __init__(self) -> None:
        self._packed: dict[int, _Packed] = {}

    def of(self, params: SamplingParams) -> _Packed:
        packed = self._packed.get(id(params))
        if packed is None:
            if len(self._packed) >= _REMEMBERED:
                self._packed.clear()
            packed = self._packed[id(params)] = _pack(params)
        return packed


def sample_natively(
    native: _native.Program,
    packed_params: PackedParams,
    logits: F32Array,
    picks: Sequence[int],
    rows: Sequence[SampleRow],
) -> list[Sampled]:
    """`ops.sampling.sample_picks`, by the extension. Raises ValueError for a pick outside the logits."""
    step = _Step(packed_params)
    for pick, row in zip(picks, rows, strict=True):
        step.add(pick, row)
    logits = np.ascontiguousarray(logits, dtype=np.float32)
    tokens, failures, logprobs, states = native.sample(logits, b"".join(step.records), *step.arrays(), step.masks)
    drawn = [Sampled(token, (), None) for token in tokens]
    for index, entries in logprobs:
        drawn[index] = Sampled(tokens[index], tuple(Logprob(*entry) for entry in entries), None)
    for index, mu in states:
        drawn[index] = drawn[index]._replace(mu=mu)
    for index, error, point, bad, total in failures:
        drawn[index] = Sampled(-1, (), _error(rows[index], logits.shape[1], error, point, bad, total))
    return drawn


class _Step:
    """The rows of one call, as SampleCall wants them."""

    def __init__(self, packed_params: PackedParams) -> None:
        self._of = packed_params.of
        self.records: list[bytes] = []
        self.masks: list[U32Array] = []
        self._tokens: list[IndexArray] = []
        self._values: list[F64Array] = []

    def add(self, pick: int, row: SampleRow) -> None:
        packed = self._of(row.params)
        counts = (0, 0, 0, -1) if packed.plain and row.mask is None else self._add_extras(packed, row)
        mu = packed.first_mu if row.mu is None else row.mu
        self.records.append(packed.record)
        self.records.append(_ROW.pack(pick, row.sample_index & _MASK_32, row.position & _MASK_64, *counts, mu))

    def arrays(self) -> tuple[IndexArray, F64Array]:
        tokens = np.concatenate(self._tokens) if self._tokens else _NO_TOKENS
        return tokens, np.concatenate(self._values) if self._values else _NO_VALUES

    def _add_extras(self, packed: _Packed, row: SampleRow) -> tuple[int, int, int, int]:
        params = packed.params
        window, dry_tokens, penalties = _NO_TOKENS, _NO_TOKENS, _NO_VALUES
        if packed.penalties:
            window = last_tokens(row.history, params.repeat_last_n)
        if packed.dry:
            dry_tokens, penalties = dry_penalties(params, row.history, row.dry_breaker_ids)
        self._tokens += (packed.biased, window, dry_tokens)
        self._values += (packed.biases, penalties)
        mask = -1
        if row.mask is not None:
            mask = len(self.masks)
            self.masks.append(np.ascontiguousarray(row.mask, dtype=np.uint32))
        return len(packed.biased), len(window), len(dry_tokens), mask


def _pack(params: SamplingParams) -> _Packed:
    greedy = params.temperature == 0
    stages = [stage for stage in params.chain if _is_on(stage, params, greedy)]
    record = _PARAMS.pack(
        params.temperature,
        params.top_p,
        params.typical_p,
        math.log(params.min_p) if params.min_p > 0 else 0.0,
        params.repeat_penalty,
        params.frequency_penalty,
        params.presence_penalty,
        params.top_n_sigma,
        params.xtc_probability,
        params.xtc_threshold,
        params.mirostat_tau,
        params.mirostat_eta,
        params.seed or 0,
        min(params.top_k, _MOST_TOKENS),
        -1 if params.logprobs is None else params.logprobs,
        bytes(_STAGE_NUMBERS[stage] for stage in stages),
        greedy,
        params.seed is not None,
        0 if greedy else params.mirostat,
    )
    penalties, dry = SamplerStage.PENALTIES in stages, SamplerStage.DRY in stages
    plain = not (penalties or dry or params.logit_bias)
    # Tokens that no vocabulary has need not fit into 64 bits.
    biased = np.array([min(max(token, -1), _MOST_TOKENS) for token, _ in params.logit_bias], np.int64)
    biases = np.array([value for _, value in params.logit_bias], np.float64)
    return _Packed(params, record, penalties, dry, plain, 2 * params.mirostat_tau, biased, biases)


def _is_on(stage: SamplerStage, params: SamplingParams, greedy: bool) -> bool:
    """Whether a stage can change the token."""
    match stage:
        case SamplerStage.PENALTIES:
            return penalises(params)
        case SamplerStage.DRY:
            return params.dry_multiplier != 0
    if greedy:
        return False
    on = {
        SamplerStage.TOP_N_SIGMA: params.top_n_sigma > 0,
        SamplerStage.XTC: params.xtc_probability > 0,
        SamplerStage.TOP_K: params.top_k > 0,
        SamplerStage.TYPICAL_P: params.typical_p < 1,
        SamplerStage.TOP_P: params.top_p < 1,
        SamplerStage.MIN_P: params.min_p > 0,
        SamplerStage.TEMPERATURE: params.temperature != 1,
    }
    return on[stage]


def _error(row: SampleRow, vocabulary: int, error: int, point: int, bad: int, total: int) -> PlaitError:
    if error == _NOT_FINITE:
        return meaning.not_finite(_POINTS[point], bad, total)
    if error == _ALL_MINUS_INFINITY:
        return meaning.nothing_possible(_POINTS[point])
    if error == _UNKNOWN_BIAS:
        return unknown_bias(next(t for t, _ in row.params.logit_bias if not 0 <= t < vocabulary), vocabulary)
    if error == _WRONG_MASK:
        assert row.mask is not None
        return meaning.wrong_mask(len(row.mask), vocabulary)
    return meaning.no_seed()
