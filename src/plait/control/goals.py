"""Profiles, and which goals hold at which hour. Knows the profiles' numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plait.control.records import Goals, Setting

DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Bounds, where limits start, and how far they move."""

    ttft_s: float
    itl_s: float
    n_parallel: int
    least_parallel: int
    most_parallel: int
    n_batch: int
    most_batch: int


PROFILES: dict[str, Profile] = {
    "latency": Profile(
        ttft_s=0.2, itl_s=0.03, n_parallel=4, least_parallel=2, most_parallel=4, n_batch=512, most_batch=1024
    ),
    "balanced": Profile(
        ttft_s=0.5, itl_s=0.05, n_parallel=8, least_parallel=8, most_parallel=128, n_batch=1024, most_batch=2048
    ),
    "throughput": Profile(
        ttft_s=5.0, itl_s=0.5, n_parallel=16, least_parallel=8, most_parallel=256, n_batch=2048, most_batch=4096
    ),
}


def goals_of(profile: str, *, ttft_s: float | None = None, itl_s: float | None = None) -> Goals:
    """The goals of a profile, with bounds of one's own where given."""
    known = PROFILES[profile]
    return Goals(
        name=profile,
        ttft_s=ttft_s or known.ttft_s,
        itl_s=itl_s or known.itl_s,
        least_parallel=known.least_parallel,
        most_parallel=known.most_parallel,
        most_batch=known.most_batch,
    )


def start_of(profile: str) -> Setting:
    """The limits to begin with."""
    known = PROFILES[profile]
    return Setting(known.n_batch, None, known.n_parallel)


@dataclass(frozen=True, slots=True)
class Hours:
    """Goals of their own from one minute of the day to another; past midnight if the end is before the start."""

    start_minute: int
    end_minute: int
    goals: Goals

    def hold(self, minute: int) -> bool:
        """Whether they hold at this minute of the day."""
        length = (self.end_minute - self.start_minute) % DAY_MINUTES or DAY_MINUTES
        return (minute - self.start_minute) % DAY_MINUTES < length


@dataclass(frozen=True, slots=True)
class Schedule:
    """The first `hours` that hold at a minute of the day, else `usual`."""

    usual: Goals
    hours: Sequence[Hours] = ()

    def at(self, minute: int) -> Goals:
        return next((hours.goals for hours in self.hours if hours.hold(minute)), self.usual)
