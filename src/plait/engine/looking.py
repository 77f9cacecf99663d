"""Rows of a step that something is made of: which want logits and which only their hidden state, and how rows of a
prompt are looked at. Knows plans and the sampler; knows no requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from plait.formats.tensor import F32Array
from plait.ops.sampling import SampleRow, mask_words
from plait.scheduler.plan import PlannedSampling, PlannedSequence, PooledRow, PromptToken, RowResult, RowUse
from plait.types import Logprob, SamplingParams


def decoding_uses(sequences: Sequence[PlannedSequence]) -> list[PlannedSampling] | None:
    """The draw of each sequence, where each has one row, from which it draws once; else None."""
    outputs = [planned[5] for planned in sequences]
    if set(map(len, outputs)) != {1} or set(map(len, [planned[1] for planned in sequences])) != {1}:
        return None
    uses = [use for ((_, use),) in outputs]
    return uses if set(map(type, uses)) == {PlannedSampling} else None  # type: ignore[return-value]


class OutputRows:
    """The outputs of some sequences, in their order: their `uses`, and for each its row of the logits or, for a pooled
    one, of the hidden states (`picks`). `wanted` are the rows of the step, the last `hidden_only` without logits."""

    def __init__(self, sequences: Sequence[PlannedSequence]) -> None:
        logits: dict[int, int] = {}  # row of the step: row of the logits
        hidden: list[int] = []
        self.uses: list[RowUse] = []
        self.picks: list[int] = []
        base = 0
        if (alike := decoding_uses(sequences)) is not None:
            self.uses, self.hidden_only = [*alike], 0
            self.picks, self.wanted = list(range(len(alike))), list(range(len(alike)))
            return
        uses, picks = self.uses, self.picks
        for _, tokens, _, _, _, outputs, _ in sequences:
            for row, use in outputs:
                uses.append(use)
                if isinstance(use, PooledRow):
                    picks.append(len(hidden))
                    hidden.append(base + row)
                else:
                    picks.append(logits.setdefault(base + row, len(logits)))
            base += len(tokens)
        self.wanted = [*logits, *hidden]
        self.hidden_only = len(hidden)


def look_row(look: PromptToken, logits: F32Array) -> SampleRow | RowResult:
    """How to look at a row of the prompt: as if its next token, which alone is allowed, were drawn from it. Where that
    is impossible there is nothing to draw, and its log-probability is -inf."""
    if logits[look.target] == -math.inf:
        return RowResult((), ((Logprob(look.target, -math.inf),),))
    mask = np.zeros(mask_words(len(logits)), np.uint32)
    mask[look.target // 32] = 1 << look.target % 32
    return SampleRow(_looking(look.alternatives), 0, 0, (), (), mask)


@lru_cache(maxsize=128)
def _looking(count: int) -> SamplingParams:
    return SamplingParams(temperature=0, logprobs=count, samplers=())
