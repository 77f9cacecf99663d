"""The tables of `adaptive.py`: of each trace the best fixed setting, the default and the adaptive policy.

Knows the runs' records; runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, TypeAlias

DEFAULT = "np 8, b 1024"
ADAPTIVE = "adaptive"
MOST_UNDER_BEST = 0.02
LEAST_OVER_DEFAULT = 0.20

Run: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class TraceRow:
    """One trace. Shares of requests in time; `twice` are those of the adaptive policy's runs, `adaptive` their mean.
    Ranks are 1 for the best of all policies. `steps_ms`: the least and most time of a small step before the runs."""

    seed: int
    requests: int
    best_name: str
    best: float
    default: float
    twice: tuple[float, ...]
    ranks: tuple[int, int, int]
    steps_ms: tuple[float, float]

    @property
    def adaptive(self) -> float:
        return mean(self.twice)

    @property
    def over_best(self) -> float:
        return over(self.adaptive, self.best)

    @property
    def over_default(self) -> float:
        return over(self.adaptive, self.default)

    @property
    def has_room(self) -> bool:
        """Whether the default leaves room for 20% more."""
        return self.default * (1 + LEAST_OVER_DEFAULT) <= 1


def over(mine: float, other: float) -> float:
    """How much more it is; infinite over nothing."""
    return mine / other - 1 if other else (float("inf") if mine else 0.0)


def trace_row(runs: Sequence[Run]) -> TraceRow | None:
    """Of the runs of one trace; None where the adaptive policy, the default or all others are missing."""
    shares: dict[str, list[float]] = {}
    for run in runs:
        shares.setdefault(run["policy"], []).append(run["in_time"])
    if not {ADAPTIVE, DEFAULT} <= set(shares):
        return None
    means = {name: mean(of) for name, of in shares.items()}
    fixed = {name: share for name, share in means.items() if name != ADAPTIVE}
    best = max(fixed, key=lambda name: fixed[name])
    return TraceRow(
        seed=runs[0]["seed"],
        requests=runs[0]["requests"],
        best_name=best,
        best=fixed[best],
        default=fixed[DEFAULT],
        twice=tuple(shares[ADAPTIVE]),
        ranks=(rank(ADAPTIVE, means), rank(DEFAULT, means), len(means)),
        steps_ms=(min(run["probe_ms"] for run in runs), max(run["probe_ms"] for run in runs)),
    )


def rank(name: str, means: dict[str, float]) -> int:
    return 1 + sum(share > means[name] for share in means.values())


def rows(runs: Sequence[Run]) -> list[TraceRow]:
    found = [trace_row([run for run in runs if run["seed"] == seed]) for seed in dict.fromkeys(r["seed"] for r in runs)]
    return [row for row in found if row is not None]


def single_best(runs: Sequence[Run]) -> tuple[str, float, float]:
    """The fixed setting with the most requests in time over the traces that it ran in, its share, and the adaptive
    policy's on them. All traces count alike."""
    policies = dict.fromkeys(run["policy"] for run in runs)
    means = {name: over_traces(runs, name) for name in policies}
    best = max((name for name in means if name != ADAPTIVE), key=lambda name: means[name])
    return best, means[best], means[ADAPTIVE]


def over_traces(runs: Sequence[Run], name: str) -> float:
    by_seed: dict[int, list[float]] = {}
    for run in runs:
        if run["policy"] == name:
            by_seed.setdefault(run["seed"], []).append(run["in_time"])
    return mean(mean(of) for of in by_seed.values())


def percent(gain: float) -> str:
    return "from nothing" if gain == float("inf") else f"{gain:+.1%}"


def line(row: TraceRow) -> str:
    twice = ", ".join(f"{one:.1%}" for one in row.twice)
    default = percent(row.over_default) + ("" if row.has_room else " (no room)")
    return (
        f"| {row.seed} | {row.requests} | {row.best_name}: {row.best:.1%} | {row.default:.1%} | {row.adaptive:.1%} "
        f"({twice}) | {percent(row.over_best)} | {default} | {row.ranks[0]}, {row.ranks[1]} of {row.ranks[2]} | "
        f"{row.steps_ms[0]:.2f} to {row.steps_ms[1]:.2f} |"
    )


def report(runs: Sequence[Run]) -> str:
    """A table with a line for each trace, and whether the bounds hold."""
    found = rows(runs)
    if not found:
        return "no trace has both the adaptive policy and the default yet"
    lines = [
        "| seed | requests | best fixed | default | adaptive (its runs) | over best | over default | ranks of adaptive "
        "and default | a step of eight, ms |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(line, found),
        "",
    ]
    under = [row.seed for row in found if row.over_best < -MOST_UNDER_BEST]
    room = [row for row in found if row.has_room]
    short = [row.seed for row in room if row.over_default < LEAST_OVER_DEFAULT]
    name, best, mine = single_best([run for run in runs if run["seed"] in {row.seed for row in found}])
    lines += [
        f"more than {MOST_UNDER_BEST:.0%} below the best fixed setting of its trace: {under or 'nowhere'}",
        f"under {LEAST_OVER_DEFAULT:.0%} over the default, of the {len(room)} of {len(found)} traces where that has "
        f"room (under {1 / (1 + LEAST_OVER_DEFAULT):.1%} in time): {short or 'nowhere'}",
        f"all traces: {mine:.1%} in time; the best single setting, {name}, {best:.1%} ({percent(over(mine, best))})",
    ]
    return "\n".join(lines)
