"""Is an engine that serves in a bad way, does a start take too long? Knows times in seconds, which are handed in."""

from __future__ import annotations

RECENT_S = 60.0
"""So long a crash is news."""
LONG_STEP_S = 5.0
REFUSED_S = 10.0
FULL_S = 0.1
"""A queue that was full is taken to be full for so long: who comes then is refused without a look at the request."""
LEAST_START_S = 60.0
STARTS = 5.0
"""A start anew may take so many times what the first one took, with the files still in memory."""


class Troubles:
    """What happened of late. `why` is empty where all is well."""

    def __init__(self, now: float) -> None:
        self._crashed_s: float | None = None
        self._refused_s: float | None = None
        self._full_s: float | None = None
        self._retry_s = 0.0
        self._started_s = now
        self._first_start: float | None = None

    def started(self, now: float) -> None:
        """An engine process was started, and loads."""
        self._started_s = now

    def ready(self, now: float) -> None:
        """It serves."""
        if self._first_start is None:
            self._first_start = now - self._started_s

    def crashed(self, now: float) -> None:
        """It ended of itself."""
        self._crashed_s = now

    def refused(self, now: float) -> None:
        """A request found the queue full, or waited there for too long."""
        self._refused_s = now

    def full(self, now: float, retry_s: float) -> None:
        """A request found so many others in the queue that any would have been refused, and was to come again later."""
        self._full_s, self._retry_s = now, retry_s

    def retry_s(self, now: float) -> float | None:
        """If that was just now: when to come again."""
        return self._retry_s if self._full_s is not None and now - self._full_s < FULL_S else None

    def hangs(self, now: float) -> bool:
        """Whether a start anew takes so long that nothing will come of it. The first one may take any time: it may
        read the model from a slow disk, and somebody watches."""
        if self._first_start is None:
            return False
        return now - self._started_s > max(LEAST_START_S, STARTS * self._first_start)

    def why(self, now: float, step_age_s: float | None) -> str:
        """In a sentence, why an engine that serves is degraded."""
        if step_age_s is not None and step_age_s > LONG_STEP_S:
            return f"the step that runs has taken {step_age_s:.0f} s"
        if self._crashed_s is not None and now - self._crashed_s < RECENT_S:
            return f"the engine process ended {now - self._crashed_s:.0f} s ago, and was started anew"
        if self._refused_s is not None and now - self._refused_s < REFUSED_S:
            return "the queue is full: requests are refused"
        return ""
