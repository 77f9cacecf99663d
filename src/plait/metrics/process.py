"""Memory and processor time of this process, from /proc; what a system does not tell is absent. Knows no metric."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

STATM = Path("/proc/self/statm")
LOADAVG = Path("/proc/loadavg")


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """Bytes resident, seconds of processor time so far, and the machine's load of the last minute; None: not known."""

    memory_bytes: int | None
    cpu_seconds: float
    machine_load: float | None


def process_figures(statm: Path = STATM, loadavg: Path = LOADAVG) -> ProcessFigures:
    """The figures of now."""
    resident = _number(statm, 1)
    memory = None if resident is None else int(resident) * os.sysconf("SC_PAGE_SIZE")
    return ProcessFigures(memory, time.process_time(), _number(loadavg, 0))


def _number(file: Path, field: int) -> float | None:
    try:
        return float(file.read_text().split()[field])
    except (OSError, ValueError, IndexError):
        return None
