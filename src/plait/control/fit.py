"""Learns a step-time model from the steps themselves: least squares that forgets, bears outliers, and stays positive.

Each step counts by its relative error, so that short steps weigh as much as long ones. Old steps fade. What the steps
of late do not tell (the cost of prompt tokens, while nobody sends prompts) stays as it was: the last solution is the
prior of the next one. Knows no limits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from plait.control.steptime import StepTime

FADE = 0.995
"""What a step's weight loses with each step after it: it counts for about 200."""
PRIOR_WEIGHT = 0.3
"""The prior counts like so many steps that tell one coefficient alone."""
OUTLIER = 2.5
"""A step that takes more than so many times the expected counts as if it took this many."""
SOLVE_EVERY = 16
READY_STEPS = 24
KEPT_RATIOS = 256
SPREAD_QUANTILE = 0.98
SPREAD_PULL = 0.2
"""How far each solution pulls the spread to that of the latest steps."""
MOST_SPREAD = 1.5
TERMS = 4


class StepTimeFit:
    """`model` is the latest solution, None before the first step. `ready` once there were steps enough, or with a
    prior."""

    def __init__(self, prior: StepTime | None = None) -> None:
        self.model = prior
        self._floor: list[float] = [] if prior is None else _floors(_vector(prior))
        self._products = [[0.0] * TERMS for _ in range(TERMS)]
        self._results = [0.0] * TERMS
        self._ratios: deque[float] = deque(maxlen=KEPT_RATIOS)
        self._steps = 0
        self._trusted = prior is not None
        self._spread = 1.0

    @property
    def ready(self) -> bool:
        return self._trusted or self._steps >= READY_STEPS

    def trust(self) -> None:
        """The steps so far were chosen to tell enough: be ready if there were any, and solve for them."""
        if self._steps:
            self._solve()
            self._trusted = True

    @property
    def spread(self) -> float:
        """The factor by which one step in fifty exceeds the model, 1 to `MOST_SPREAD`."""
        return self._spread

    def observe(self, decode_rows: int, prompt_tokens: int, key_reads: int, seconds: float) -> None:
        """A step took `seconds`. One of no length is no measurement."""
        if seconds <= 0:
            return
        if self.model is None:
            self.model = _first_guess(decode_rows + prompt_tokens, key_reads, seconds)
            self._floor = _floors(_vector(self.model))
        expected = self.model.seconds(decode_rows, prompt_tokens, key_reads)
        if expected > 0:
            self._ratios.append(seconds / expected)
            seconds = min(seconds, OUTLIER * expected)
        self._add((1.0, decode_rows, prompt_tokens, key_reads), seconds)
        self._steps += 1
        if self._steps % SOLVE_EVERY == 0 or self._steps in (1, 2, 4, 8):
            self._solve()

    def _add(self, terms: tuple[float, ...], seconds: float) -> None:
        weight = 1.0 / (seconds * seconds)
        for i, row in enumerate(self._products):
            scaled = weight * terms[i]
            for j in range(i + 1):
                row[j] = FADE * row[j] + scaled * terms[j]
            self._results[i] = FADE * self._results[i] + scaled * seconds

    def _solve(self) -> None:
        assert self.model is not None
        prior = [max(value, floor) for value, floor in zip(_vector(self.model), self._floor, strict=True)]
        matrix = [[self._products[max(i, j)][min(i, j)] for j in range(TERMS)] for i in range(TERMS)]
        results = list(self._results)
        for i, value in enumerate(prior):
            matrix[i][i] += PRIOR_WEIGHT / (value * value)
            results[i] += PRIOR_WEIGHT / value
        self.model = StepTime(*solve_positive(matrix, results))
        ordered = sorted(self._ratios)
        if ordered:
            late = min(max(ordered[int(SPREAD_QUANTILE * (len(ordered) - 1))], 1.0), MOST_SPREAD)
            self._spread += SPREAD_PULL * (late - self._spread)


def _vector(model: StepTime) -> list[float]:
    return [model.step, model.decode_row, model.prompt_token, model.key_read]


def _floors(values: list[float]) -> list[float]:
    """Priors are not below these: a prior of 0 would be for ever."""
    return [max(value * 0.01, 1e-12) for value in values]


def _first_guess(tokens: int, key_reads: int, seconds: float) -> StepTime:
    """Half of the first step's time for the step, half for its tokens, little for the keys."""
    row = seconds / 2 / max(tokens, 1)
    return StepTime(seconds / 2, row, row, 0.01 * seconds / max(key_reads, 1))


def solve_positive(matrix: Sequence[Sequence[float]], results: Sequence[float]) -> list[float]:
    """The least-squares solution of normal equations, no element below 0: while there are negative ones, the most
    negative (by its effect) is set to 0, and the rest solved again."""
    free = list(range(len(results)))
    while free:
        found = _solve_linear([[matrix[i][j] for j in free] for i in free], [results[i] for i in free])
        worst = min(range(len(free)), key=lambda k: found[k] * matrix[free[k]][free[k]] ** 0.5)
        if found[worst] >= 0:
            values = [0.0] * len(results)
            for place, value in zip(free, found, strict=True):
                values[place] = value
            return values
        del free[worst]
    return [0.0] * len(results)


def _solve_linear(matrix: list[list[float]], results: list[float]) -> list[float]:
    """Gauss's elimination for a symmetric positive definite matrix, scaled to a unit diagonal first."""
    size = len(results)
    scale = [1.0 / matrix[i][i] ** 0.5 for i in range(size)]
    rows = [[matrix[i][j] * scale[i] * scale[j] for j in range(size)] + [results[i] * scale[i]] for i in range(size)]
    for i in range(size):
        pivot = max(rows[i][i], 1e-12)
        for k in range(i + 1, size):
            factor = rows[k][i] / pivot
            for j in range(i, size + 1):
                rows[k][j] -= factor * rows[i][j]
    values = [0.0] * size
    for i in reversed(range(size)):
        known = sum(rows[i][j] * values[j] for j in range(i + 1, size))
        values[i] = (rows[i][size] - known) / max(rows[i][i], 1e-12)
    return [value * scale[i] for i, value in enumerate(values)]
