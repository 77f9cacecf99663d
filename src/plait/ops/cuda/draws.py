"""From rows to sample to the arrays of the drawing kernels. Knows sampling parameters and numpy; computes no token.

What the kernels do not do (masks, biases, DRY, typical sampling, log-probabilities) is left to the host as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plait.ops.api import I32Array
from plait.ops.cuda.kernels.sample import FLOATS, INTS, MIN_P, STAGES, TEMPERATURE, TOP_K, TOP_P
from plait.ops.penalties import last_tokens, penalises
from plait.ops.sampling import MODEL_LOGITS, Sampled, SampleRow, not_finite, nothing_possible
from plait.types import SamplerStage, SamplingParams

_CODES = {
    SamplerStage.TOP_K: TOP_K,
    SamplerStage.TOP_P: TOP_P,
    SamplerStage.MIN_P: MIN_P,
    SamplerStage.TEMPERATURE: TEMPERATURE,
}
_WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class DrawArrays:
    """`kernels.sample.Draws` on the host."""

    ints: I32Array
    floats: npt.NDArray[np.float64]
    history: I32Array
    copy: bool


def drawn_on_device(row: SampleRow) -> bool:
    """Whether the kernels can draw this row as `ops.sampling` means it."""
    params = row.params
    if row.mask is not None or params.mirostat or params.logit_bias or params.logprobs is not None:
        return False
    if params.temperature != 0 and params.seed is None:
        return False
    known = (*_CODES, SamplerStage.PENALTIES)
    return all(stage in known or _idle(stage, params) for stage in params.samplers) and _penalties_first(params)


def _idle(stage: SamplerStage, params: SamplingParams) -> bool:
    """Whether a stage that only the host has changes nothing."""
    if stage is SamplerStage.DRY:
        return params.dry_multiplier == 0
    if stage is SamplerStage.TOP_N_SIGMA:
        return params.top_n_sigma <= 0
    if stage is SamplerStage.XTC:
        return params.xtc_probability <= 0
    return stage is SamplerStage.TYPICAL_P and params.typical_p >= 1


def _penalties_first(params: SamplingParams) -> bool:
    if not penalises(params):
        return True
    before = params.samplers[: params.samplers.index(SamplerStage.PENALTIES)] if _penalty(params) else ()
    return not any(stage in _CODES for stage in before)


def _penalty(params: SamplingParams) -> bool:
    return SamplerStage.PENALTIES in params.samplers and penalises(params)


def stages_of(params: SamplingParams) -> list[int]:
    """The stages that thin candidates out or come between such; none where the temperature is all there is."""
    off = {TOP_K: params.top_k == 0, TOP_P: params.top_p >= 1, MIN_P: params.min_p <= 0}
    codes = [_CODES[stage] for stage in params.samplers if stage in _CODES]
    used = [code for code in codes if not off.get(code, False)]
    return [] if used in ([TEMPERATURE], []) or params.temperature == 0 else used


def draw_arrays(picks: Sequence[int], rows: Sequence[SampleRow]) -> DrawArrays:
    """Arrays for rows that can be drawn on the device. A temperature that is not in the chain is 1."""
    ints = np.zeros((len(rows), INTS), np.int64)
    floats = np.zeros((len(rows), FLOATS), np.float64)
    history: list[int] = []
    copy = False
    for i, (pick, row) in enumerate(zip(picks, rows, strict=True)):
        params = row.params
        past = _window(row)
        stages = stages_of(params)
        copy = copy or bool(stages) or bool(past)
        seed = params.seed or 0
        ints[i, :9] = (
            pick, seed & _WORD, seed >> 32, row.sample_index & _WORD, row.position & _WORD, row.position >> 32,
            len(history), len(past), min(params.top_k, 2**31 - 1),
        )  # fmt: skip
        ints[i, 9 : 9 + len(stages)] = stages
        heat = params.temperature if params.temperature == 0 or SamplerStage.TEMPERATURE in params.samplers else 1.0
        floats[i] = (
            heat, params.top_p, math.log(params.min_p) if params.min_p > 0 else -math.inf, params.repeat_penalty,
            params.frequency_penalty, params.presence_penalty,
        )  # fmt: skip
        history += past
    assert STAGES == INTS - 9
    return DrawArrays(ints.astype(np.uint32).view(np.int32), floats, np.array(history or [0], np.int32), copy)


def _window(row: SampleRow) -> list[int]:
    """The tokens that the penalties look at."""
    if not _penalty(row.params):
        return []
    found: list[int] = last_tokens(row.history, row.params.repeat_last_n).tolist()
    return found


def outcome(token: int, status: int, vocabulary: int) -> Sampled:
    """What a row yields, in the words of every backend."""
    if status == 0:
        return Sampled(token, (), None)
    error = nothing_possible(MODEL_LOGITS) if status < 0 else not_finite(MODEL_LOGITS, status, vocabulary)
    return Sampled(-1, (), error)
