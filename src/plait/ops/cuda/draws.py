"""From rows to sample to the arrays of the drawing kernels. Knows sampling parameters and numpy; computes no token.

What the kernels do not do (masks, biases, DRY, typical sampling, log-probabilities) is left to the host as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

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
_new = tuple.__new__  # hot: records are made without their constructors


@dataclass(frozen=True, slots=True)
class DrawArrays:
    """`kernels.sample.Draws` on the host."""

    ints: I32Array
    floats: npt.NDArray[np.float64]
    history: I32Array
    copy: bool


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


class KnownFacts:
    """What follows from parameters alone, of those seen of late, by their identity: a row's are the same object from
    step to step. Number i of `numbers` has row i of the tables: `ints` and `floats` as the kernels take them (a
    temperature that is not in the chain is 1), but for what is the row's own."""

    def __init__(self, most: int) -> None:
        """`most` is of rows in a step, and of parameters that are remembered."""
        self.ints = np.zeros((most, INTS), np.uint32)
        self.floats = np.zeros((most, FLOATS), np.float64)
        self.on_device, self.penalised, self.thins = (np.zeros(most, np.bool_) for _ in range(3))
        self._numbers: dict[int, int] = {}
        self._params: list[SamplingParams] = []  # kept, so that nobody else gets their identity

    def numbers(self, params: Sequence[SamplingParams]) -> list[int]:
        """A number for each."""
        found = list(map(self._numbers.get, map(id, params)))
        if None in found:
            if len(self._params) + found.count(None) > len(self.ints):
                self._numbers.clear()
                self._params.clear()
            for each in params:
                if id(each) not in self._numbers:
                    self._add(each)
            found = list(map(self._numbers.get, map(id, params)))
        return [number for number in found if number is not None]

    def drawn_on_device(self, rows: Sequence[SampleRow]) -> bool:
        """Whether the kernels can draw every row as `ops.sampling` means it."""
        if any(row.mask is not None for row in rows):
            return False
        return bool(self.on_device[self.numbers([row.params for row in rows])].all())

    def _add(self, params: SamplingParams) -> None:
        number = len(self._params)
        stages, seed = stages_of(params), params.seed or 0
        self.on_device[number], self.penalised[number] = _params_drawn(params), _penalty(params)
        self.thins[number] = bool(stages)
        stages += [0] * (STAGES - len(stages))
        own = (0,) * 5  # sample index, position, history
        self.ints[number] = (0, seed & _WORD, seed >> 32, *own, min(params.top_k, 2**31 - 1), *stages)
        heat = params.temperature if params.temperature == 0 or SamplerStage.TEMPERATURE in params.samplers else 1.0
        least = math.log(params.min_p) if params.min_p > 0 else -math.inf
        penalties = (params.repeat_penalty, params.frequency_penalty, params.presence_penalty)
        self.floats[number] = (heat, params.top_p, least, *penalties)
        self._params.append(params)
        self._numbers[id(params)] = number


def draw_arrays(picks: Sequence[int], rows: Sequence[SampleRow], known: KnownFacts | None = None) -> DrawArrays:
    """Arrays for rows, one at least, that can be drawn on the device."""
    known = known or KnownFacts(len(rows))
    params, indices, positions, *_ = zip(*rows, strict=True)
    numbers = known.numbers(params)
    ints, at = known.ints[numbers], np.array(positions, np.int64)
    ints[:, 0], ints[:, 3], ints[:, 4], ints[:, 5] = picks, np.array(indices, np.int64) & _WORD, at & _WORD, at >> 32
    history: list[int] = []
    for number in np.flatnonzero(known.penalised[numbers]).tolist():
        past = _window(rows[number])
        ints[number, 6:8] = len(history), len(past)
        history += past
    copy = bool(known.thins[numbers].any()) or bool(history)
    return DrawArrays(ints.view(np.int32), known.floats[numbers], np.array(history or [0], np.int32), copy)


def _window(row: SampleRow) -> list[int]:
    """The tokens that the penalties look at."""
    found: list[int] = last_tokens(row.history, row.params.repeat_last_n).tolist()
    return found


def outcomes(tokens: list[int], status: list[int], vocabulary: int) -> list[Sampled]:
    """`outcome` of every row."""
    if any(status):
        return [outcome(token, state, vocabulary) for token, state in zip(tokens, status, strict=True)]
    return list(map(_new, repeat(Sampled), zip(tokens, repeat(()), repeat(None), repeat(None))))


def outcome(token: int, status: int, vocabulary: int) -> Sampled:
    """What a row yields, in the words of every backend."""
    if status == 0:
        return Sampled(token, (), None)
    error = nothing_possible(MODEL_LOGITS) if status < 0 else not_finite(MODEL_LOGITS, status, vocabulary)
    return Sampled(-1, (), error)
