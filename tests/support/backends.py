"""The backends that model tests run on, by name."""

from __future__ import annotations

import pytest

from plait.ops.api import Backend
from plait.ops.reference import ReferenceBackend

BACKENDS = ("reference", "cpu-1", "cpu-2")
"""A backend's name, and its number of threads where it has any; `cpu-2:avx2` names the SIMD path, too."""


def other_paths() -> list[str]:
    """The SIMD paths of this CPU but for the one that runs by default; none where the extension is not built."""
    try:
        from plait.ops.cpu.backend import CpuBackend
    except ImportError:
        return []
    return list(CpuBackend.paths()[1:])


def make_backend(name: str) -> Backend:
    """Skips the test where the CPU backend's extension is not built."""
    if name == "reference":
        return ReferenceBackend()
    try:
        from plait.ops.cpu.backend import CpuBackend
    except ImportError as error:
        pytest.skip(f"the CPU extension is not built: {error}")
    threads, _, path = name.removeprefix("cpu-").partition(":")
    return CpuBackend(int(threads), path or None)
