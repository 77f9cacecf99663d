"""Virtual time, and a runner that takes it: rows get tokens by their place, steps last as long as a model says.

Knows the step contract. Builds no arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from plait.control.steptime import StepTime
from plait.scheduler.plan import PlannedSampling, RowResult, StepPlan, StepResult
from plait.sim.trace import ANSWER_BASE


class VirtualClock:
    """Seconds that pass when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait_until(self, at_s: float) -> None:
        if at_s > self.now:
            self.now = at_s


@dataclass(frozen=True, slots=True)
class Noise:
    """Step times vary: log-normally with `sigma`, and one step in `1 / outlier_share` takes `outlier` times as long, as
    on a machine with other work."""

    sigma: float = 0.0
    outlier_share: float = 0.0
    outlier: float = 3.0
    seed: int = 0


class SimHandle:
    """A step that ends at `end_s`."""

    def __init__(self, clock: VirtualClock, end_s: float, result: StepResult) -> None:
        self._clock, self._end_s, self._result = clock, end_s, result

    def result(self) -> StepResult:
        self._clock.wait_until(self._end_s)
        return self._result

    def wait(self) -> None:
        self._clock.wait_until(self._end_s)


class SimRunner:
    """Runs plans one after the other on a machine with these step times."""

    def __init__(self, clock: VirtualClock, machine: StepTime, noise: Noise | None = None) -> None:
        self._clock = clock
        self._machine = machine
        self._noise = noise
        self._rng = Random(noise.seed if noise else 0)
        self._free_at = 0.0
        self._rows: list[RowResult] = []

    def submit(self, plan: StepPlan) -> SimHandle:
        rows: list[RowResult] = []
        known, tokens, keys = self._rows, 0, 0
        for planned in plan.sequences:
            count, first = len(planned.tokens), planned.first_position
            tokens += count
            keys += count * first + count * (count + 1) // 2
            for _, sampling in planned.outputs:
                position = sampling.position if isinstance(sampling, PlannedSampling) else first + count
                if position >= len(known):
                    known += [RowResult((ANSWER_BASE + at,)) for at in range(len(known), 2 * position + 1)]
                rows.append(known[position])
        seconds = self._machine.seconds(tokens - plan.prompt_tokens, plan.prompt_tokens, keys) * self._factor()
        start = max(self._clock.now, self._free_at)
        self._free_at = start + seconds
        return SimHandle(self._clock, self._free_at, StepResult(plan.step, tuple(rows), seconds))

    def close(self) -> None:
        """Nothing to stop."""

    def _factor(self) -> float:
        noise = self._noise
        if noise is None:
            return 1.0
        factor = self._rng.lognormvariate(0.0, noise.sigma) if noise.sigma else 1.0
        return factor * noise.outlier if self._rng.random() < noise.outlier_share else factor
