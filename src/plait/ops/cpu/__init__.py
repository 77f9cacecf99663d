"""The C++ kernel library for CPUs: recorded programs become native step programs, one call a step."""

from __future__ import annotations

from plait.ops.cpu.backend import CpuBackend, CpuExecutable

__all__ = ["CpuBackend", "CpuExecutable"]
