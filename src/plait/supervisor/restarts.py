"""When to start the engine anew, and when to give up. Knows counts; no clock and no processes."""

from __future__ import annotations

FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 10.0


class Restarts:
    """`crashes` in all; `fruitless` of the latest brought nothing: no request gained a token, and the search for the
    one that is to blame did not come closer. With more than `most` of these there is no point in going on."""

    def __init__(self, most: int) -> None:
        self.crashes = self.fruitless = 0
        self._most = most

    def gained(self) -> None:
        """A token came."""
        self.fruitless = 0

    def crashed(self, *, narrowed: bool) -> float | None:
        """Seconds to wait before the next start; None to give up."""
        self.crashes += 1
        if narrowed:
            return 0.0
        self.fruitless += 1
        if self.fruitless > self._most:
            return None
        waits = self.fruitless - 2  # the first crash after a token is followed at once
        return 0.0 if waits < 0 else min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**waits)
