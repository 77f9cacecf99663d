"""A program that kills the process: what the tests of recovery run. Knows the contract of `ops.api` alone."""

from __future__ import annotations

import os
import signal
from typing import Any

from plait.formats.tensor import F32Array
from plait.ops.api import Executable, StepInputs


class CrashingExecutable:
    """An executable, but for steps that contain `token`: those end the process by SIGKILL."""

    def __init__(self, executable: Executable, token: int) -> None:
        self._executable, self._token = executable, token

    def run(self, inputs: StepInputs) -> F32Array:
        if self._token in inputs.tokens:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._executable.run(inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executable, name)
