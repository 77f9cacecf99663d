"""How evenly tenants are served. Knows names and counts of tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection


def jain(shares: Collection[float]) -> float:
    """Jain's index (Jain, Chiu, Hawe 1984): (sum x)^2 / (n sum x^2), 1/n to 1. 1 for nothing."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


class Fairness:
    """In windows of `window_s`: of the tokens that a tenant had asked for (what was left over before, and what came),
    which share was served; Jain's index of these shares over the tenants; and its mean over the windows in which two
    tenants or more asked."""

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_s = window_s
        self._end = window_s
        self._open: dict[str, int] = defaultdict(int)  # tokens asked for and not served
        self._served: dict[str, int] = defaultdict(int)
        self._indices: list[float] = []

    def asked(self, now: float, tenant: str, tokens: int) -> None:
        self._roll(now)
        self._open[tenant] += tokens

    def served(self, now: float, tenant: str, tokens: int) -> None:
        self._roll(now)
        self._open[tenant] -= tokens
        self._served[tenant] += tokens

    def index(self) -> float:
        """Over the windows that are over; 1 with none."""
        return sum(self._indices) / len(self._indices) if self._indices else 1.0

    def _roll(self, now: float) -> None:
        while now >= self._end:
            shares = [
                self._served[tenant] / (self._served[tenant] + left)
                for tenant, left in self._open.items()
                if self._served[tenant] + left > 0
            ]
            if len(shares) > 1:
                self._indices.append(jain(shares))
            self._served.clear()
            self._end += self._window_s
