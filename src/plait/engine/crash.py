"""A program that kills the process: what the tests of recovery run. Knows the contract of `ops.api` alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np

from plait.engine.launching import LaunchingExecutable, PendingStep
from plait.formats.tensor import F32Array
from plait.ops.api import Executable, I32Array, StepInputs
from plait.ops.sampling import SampleRow


class CrashingExecutable:
    """An executable, but for steps that contain `token`: those end the process by SIGKILL."""

    def __init__(self, executable: Executable, token: int) -> None:
        self._executable, self._token = executable, token

    def run(self, inputs: StepInputs) -> F32Array:
        self._die_of(inputs.tokens)
        return self._executable.run(inputs)

    def _die_of(self, tokens: I32Array) -> None:
        if self._token in tokens:
            os.kill(os.getpid(), signal.SIGKILL)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executable, name)


class CrashingLauncher(CrashingExecutable):
    """The same of one that launches ahead. It waits for the draws that a step names, to see which tokens they are."""

    def __init__(self, executable: LaunchingExecutable, token: int) -> None:
        super().__init__(executable, token)  # type: ignore[arg-type]
        self._launcher = executable
        self._last: PendingStep | None = None

    def launches(self, rows: Sequence[SampleRow]) -> bool:
        return self._launcher.launches(rows)

    def launch(self, step: StepInputs, picks: Sequence[int], rows: Sequence[SampleRow]) -> PendingStep:
        named = -1 - step.tokens[step.tokens < 0]
        drawn = self._last.result() if len(named) and self._last is not None else []
        self._die_of(np.append(step.tokens, [drawn[i].token for i in named]))
        self._last = self._launcher.launch(step, picks, rows)
        return self._last


def crashing(executable: Executable, token: int) -> Executable:
    """`executable`, but for what it dies of."""
    if isinstance(executable, LaunchingExecutable):
        return CrashingLauncher(executable, token)
    return CrashingExecutable(executable, token)
