"""The backends that every model test runs on."""

from __future__ import annotations

import pytest

from plait.ops.api import Backend
from plait.ops.reference import ReferenceBackend

BACKENDS = ("reference", "cpu-1", "cpu-2")
"""A backend's name, and its number of threads where it has any."""


def make_backend(name: str) -> Backend:
    if name == "reference":
        return ReferenceBackend()
    return make_cpu_backend(int(name.removeprefix("cpu-")))


def make_cpu_backend(threads: int) -> Backend:
    """Skips the test where the extension is not built."""
    try:
        from plait.ops.cpu.backend import CpuBackend
    except ImportError as error:
        pytest.skip(f"the CPU extension is not built: {error}")
    return CpuBackend(threads=threads)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return make_backend(request.param)
