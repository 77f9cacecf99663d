"""How many threads a process may well run at once. Knows Linux's files about CPUs; knows nothing of Plait."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


CAN_BIND = hasattr(os, "sched_setaffinity")


def allowed_cpus() -> set[int]:
    """The CPUs that this process may use, by the system's numbers."""
    return os.sched_getaffinity(0) if CAN_BIND else set(range(os.cpu_count() or 1))


def usable_cpus(cgroup_limit: Path = _CGROUP_LIMIT) -> int:
    """CPUs, hyperthreads among them, that this process may use; a container's share of CPU time bounds them. At least
    1."""
    return max(1, min(len(allowed_cpus()), _share(cgroup_limit)))


def usable_cores(cpus: Path = _CPUS, cgroup_limit: Path = _CGROUP_LIMIT, *, within: Iterable[int] = ()) -> int:
    """Physical cores that this process may use, or of those `within` these CPUs: hyperthreads of one core count once,
    and a container's share of CPU time bounds them. At least 1."""
    cores = {_siblings(cpus, cpu) for cpu in list(within) or allowed_cpus()}
    return max(1, min(len(cores), _share(cgroup_limit)))


def by_core(numbers: Sequence[int], cpus: Path = _CPUS) -> list[int]:
    """CPUs in the order in which threads should take them: one of each core, then a second one of each ..."""
    seen: dict[str, int] = {}
    turns: list[tuple[int, int]] = []
    for position, cpu in enumerate(numbers):
        core = _siblings(cpus, cpu)
        turns.append((seen.get(core, 0), position))
        seen[core] = seen.get(core, 0) + 1
    return [numbers[position] for _, position in sorted(turns)]


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
