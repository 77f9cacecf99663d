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
    return row.mask is None and _params_drawn(row.params)


def _params_drawn(params: SamplingParams) -> bool:
    if params.mirostat or params.logit_bias or params.logprobs is not None:
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


@dataclass(frozen=True, slots=True)
class Facts:
    """What follows from a request's parameters alone. `floats` as the kernels take them; a temperature that is not in
    the chain is 1."""

    params: SamplingParams
    on_device: bool
    penalised: bool
    seed: tuple[int, int]
    top_k: int
    stages: tuple[int, ...]
    floats: tuple[float, ...]

    @staticmethod
    def of(params: SamplingParams) -> Facts:
        stages, seed = stages_of(params), params.seed or 0
        heat = params.temperature if params.temperature == 0 or SamplerStage.TEMPERATURE in params.samplers else 1.0
        return Facts(
            params, _params_drawn(params), _penalty(params), (seed & _WORD, seed >> 32), min(params.top_k, 2**31 - 1),
            (*stages, *[0] * (STAGES - len(stages))),
            (heat, params.top_p, math.log(params.min_p) if params.min_p > 0 else -math.inf, params.repeat_penalty,
             params.frequency_penalty, params.presence_penalty),
        )  # fmt: skip


class KnownFacts:
    """The facts of parameters seen of late, by their identity: a row's are the same object from step to step."""

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._facts: dict[int, Facts] = {}

    def of(self, params: SamplingParams) -> Facts:
        found = self._facts.get(id(params))
        if found is None or found.params is not params:
            if len(self._facts) >= self._most:
                self._facts.clear()
            found = self._facts[id(params)] = Facts.of(params)
        return found

    def drawn_on_device(self, row: SampleRow) -> bool:
        """`drawn_on_device`."""
        return row.mask is None and self.of(row.params).on_device


def draw_arrays(picks: Sequence[int], rows: Sequence[SampleRow], known: KnownFacts | None = None) -> DrawArrays:
    """Arrays for rows that can be drawn on the device."""
    known = known or KnownFacts()
    ints: list[tuple[int, ...]] = []
    floats: list[tuple[float, ...]] = []
    history: list[int] = []
    copy = False
    for pick, row in zip(picks, rows, strict=True):
        facts = known.of(row.params)
        past = _window(row) if facts.penalised else []
        copy = copy or facts.stages[0] > 0 or bool(past)
        position = row.position
        ints.append((pick, *facts.seed, row.sample_index & _WORD, position & _WORD, position >> 32, len(history),
                     len(past), facts.top_k, *facts.stages))  # fmt: skip
        floats.append(facts.floats)
        history += past
    table = np.array(ints, np.int64).reshape(len(rows), INTS)
    return DrawArrays(
        table.astype(np.uint32).view(np.int32), np.array(floats, np.float64).reshape(len(rows), FLOATS),
        np.array(history or [0], np.int32), copy,
    )  # fmt: skip


def _window(row: SampleRow) -> list[int]:
    """The tokens that the penalties look at."""
    found: list[int] = last_tokens(row.history, row.params.repeat_last_n).tolist()
    return found


def outcome(token: int, status: int, vocabulary: int) -> Sampled:
    """What a row yields, in the words of every backend."""
    if status == 0:
        return Sampled(token, (), None)
    error = nothing_possible(MODEL_LOGITS) if status < 0 else not_finite(MODEL_LOGITS, status, vocabulary)
    return Sampled(-1, (), error)
