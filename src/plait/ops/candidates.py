"""The tokens that may still be drawn, and the stages of the sampler chain that thin them out.

Knows numpy and nothing else: no parameters, no history, no randomness. Every stage is a function from candidates to
candidates and always leaves at least one. Formulas are llama.cpp's (src/llama-sampler.cpp, min_keep 1) but where a
docstring says otherwise; among equal logits the lowest token id goes first, which llama.cpp leaves open.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
F64Array: TypeAlias = npt.NDArray[np.float64]
IndexArray: TypeAlias = npt.NDArray[np.int64]

_HEAD = 512
"""How many candidates are sorted before the whole vocabulary is; nearly always enough for top-p."""

_FOLD = 64
"""Rows of the array that the search for the largest logits folds them into."""

_LEAST_TEMPERATURE = 1e-200
"""Keeps logit / temperature finite in float64."""


class Candidates(NamedTuple):
    """Token ids, ascending (None: id i is entry i, the whole vocabulary), and their logits, float32 or float64.

    The arrays belong to whoever made them: a stage never writes to those it is given."""

    ids: IndexArray | None
    logits: FloatArray

    def keep(self, index: IndexArray) -> Candidates:
        """The entries `index`, which ascends."""
        return Candidates(index if self.ids is None else self.ids[index], self.logits[index])

    def token(self, index: int) -> int:
        return index if self.ids is None else int(self.ids[index])

    def locate(self, tokens: IndexArray) -> tuple[IndexArray, npt.NDArray[np.bool_]]:
        """For each of `tokens`, whether it is a candidate; and the entries of those that are."""
        size = len(self.logits)
        if self.ids is None:
            found = (tokens >= 0) & (tokens < size)
            return tokens[found], found
        index = np.minimum(np.searchsorted(self.ids, tokens), size - 1)
        found = self.ids[index] == tokens
        return index[found], found


def largest(logits: FloatArray, count: int) -> IndexArray:
    """Ascending indices of the `count` largest; among equals the lowest indices."""
    if count >= len(logits):
        return np.arange(len(logits))
    contenders = logits[logits >= _lower_bound(logits, count)]
    return _at_least(logits, np.partition(contenders, len(contenders) - count)[len(contenders) - count], count)


def _lower_bound(logits: FloatArray, count: int) -> float:
    """A number that at least `count` of the logits reach: that many columns of a folded array hold one.

    Several times faster than a partition of all, of which it leaves only a few to look at."""
    columns = len(logits) // _FOLD
    if columns < count:
        return -math.inf
    tops = logits[: columns * _FOLD].reshape(_FOLD, columns).max(axis=0)
    return float(np.partition(tops, columns - count)[columns - count])


def _at_least(logits: FloatArray, threshold: float, count: int) -> IndexArray:
    """The first `count` of the indices whose logit reaches `threshold`, the `count`-th largest of them all."""
    index = np.flatnonzero(logits >= threshold)
    excess = len(index) - count
    if excess:
        ties = np.flatnonzero(logits[index] == threshold)
        index = np.delete(index, ties[-excess:])
    return index


def top_k(candidates: Candidates, k: int) -> Candidates:
    """The k largest, none that is impossible; all of them when k is 0."""
    logits = candidates.logits
    if k == 0 or k >= len(logits):
        return candidates
    index = largest(logits, k)
    return candidates.keep(index[logits[index] > -np.inf])


def top_p(candidates: Candidates, p: float) -> Candidates:
    """The most probable, until their sum reaches p (Holtzman et al., arXiv:1904.09751)."""
    if p >= 1:
        return candidates
    logits = candidates.logits
    size, largest_logit = len(logits), float(logits.max())
    wanted = p * weights_below(logits, largest_logit).sum()
    for head in (min(_HEAD, size), size):
        ranked = np.sort(logits[largest(logits, head)])[::-1]
        reached = np.cumsum(weights_below(ranked, largest_logit)) >= wanted
        if reached[-1]:
            last = int(reached.argmax())
            return candidates.keep(_at_least(logits, ranked[last], last + 1))
    return candidates  # p is so near to 1 that rounding keeps the sum below it


def min_p(candidates: Candidates, p: float) -> Candidates:
    """Those at least p times as probable as the most probable one (arXiv:2407.01082)."""
    if p <= 0:
        return candidates
    logits = candidates.logits
    return candidates.keep(np.flatnonzero(logits >= logits.max() + logits.dtype.type(math.log(p))))


def typical_p(candidates: Candidates, p: float) -> Candidates:
    """Those whose surprise is nearest to the entropy, until their probabilities sum to more than p (locally typical
    sampling, Meister et al., arXiv:2202.00666)."""
    if p >= 1:
        return candidates
    possible = candidates.keep(np.flatnonzero(candidates.logits > -np.inf))
    shifted = possible.logits.astype(np.float64) - possible.logits.max()
    log_probs = shifted - math.log(np.exp(shifted).sum())
    probs = np.exp(log_probs)
    entropy = -(probs * log_probs).sum()
    order = np.argsort(np.abs(-log_probs - entropy), kind="stable")
    count = int(np.searchsorted(np.cumsum(probs[order]), p, side="right")) + 1
    return possible.keep(np.sort(order[:count]))


def top_n_sigma(candidates: Candidates, n: float) -> Candidates:
    """Those whose logit is at most n standard deviations below the largest (arXiv:2411.07641); the deviation is that of
    the logits above -inf. n of 0 or less is off."""
    if n <= 0 or len(candidates.logits) < 2:
        return candidates
    logits = candidates.logits.astype(np.float64)
    possible = logits[logits > -np.inf]
    mean = possible.sum() / len(possible)
    deviation = math.sqrt(np.square(possible - mean).sum() / len(possible))
    return candidates.keep(np.flatnonzero(logits >= logits.max() - n * deviation))


def xtc(candidates: Candidates, threshold: float) -> Candidates:
    """ "Exclude top choices" (p-e-w, oobabooga/text-generation-webui#6335): of several tokens whose probability reaches
    `threshold`, only the least probable stays, the highest id among equals; a threshold above 0.5 is off."""
    if threshold > 0.5 or len(candidates.logits) < 2:
        return candidates
    weights = weights_below(candidates.logits, float(candidates.logits.max()))
    top = (weights >= threshold * weights.sum()) & (weights > 0)
    likely = np.flatnonzero(top)
    if len(likely) < 2:
        return candidates
    of_likely = candidates.logits[likely]
    top[likely[np.flatnonzero(of_likely == of_likely.min())[-1]]] = False
    return candidates.keep(np.flatnonzero(~top))


def temperature(candidates: Candidates, t: float) -> Candidates:
    """Logits over t, in float64, so that none overflows. t is above 0."""
    if t == 1:
        return candidates
    return candidates._replace(logits=candidates.logits.astype(np.float64) / max(t, _LEAST_TEMPERATURE))


def draw(candidates: Candidates, uniform: float) -> int:
    """The token where the running sum of probabilities, in the order of token ids, first exceeds `uniform` in [0, 1).

    A token of probability 0 is never drawn: the sum does not rise there."""
    total = np.cumsum(weights_below(candidates.logits, float(candidates.logits.max())))
    return candidates.token(int(np.searchsorted(total, uniform * total[-1], side="right")))


def weights_below(logits: FloatArray, top: float) -> F64Array:
    """exp(logits - top)."""
    weights = logits.astype(np.float64)
    weights -= top
    np.exp(weights, out=weights)
    return weights
