"""How many threads a process may well run at once. Knows Linux's files about CPUs; knows nothing of Plait."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(cpus: Path = _CPUS, cgroup_limit: Path = _CGROUP_LIMIT) -> int:
    """Physical cores that this process may use: hyperthreads of one core count once, and a container's share of CPU
    time bounds them. At least 1."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(cpus, cpu) for cpu in allowed}
    return max(1, min(len(cores), _share(cgroup_limit)))


def _siblings(cpus: Path, cpu: int) -> str:
    """A name of the core that the CPU is a thread of."""
    try:
        return (cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _share(cgroup_limit: Path) -> int:
    """CPUs' worth of time that the control group grants, rounded up; very many where it sets no limit."""
    try:
        quota, period = cgroup_limit.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return 1 << 30
