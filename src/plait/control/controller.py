"""The controller: gathers what steps tell, asks `decide` between steps, and keeps its decisions.

The little state there is; the deciding is pure. Knows records and numbers; the clock's time is handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from plait.control.decide import decide
from plait.control.fit import StepTimeFit
from plait.control.goals import Schedule
from plait.control.records import Decision, LoadSnapshot, Setting
from plait.metrics.records import StepRecord

INTERVAL_S = 0.02
"""Between decisions, unless the number of streams changes much."""
KEYS_FADE = 0.98
"""The keys that a prompt token looks at: the most of late, since the next prompt may stand where a long one stood."""
PEAK_WINDOW_S = 2.0
PEAK_WINDOWS = 5
"""The peak of late is over this many windows."""
KEPT_DECISIONS = 512
SQUEEZE_SHARE = 0.02
"""Pages ran out in earnest if more than this share of a window's tokens had to be computed again."""


class Controller:
    """`setting` are the limits in force; `decisions` the latest that changed one. `minute_of_day` tells the hour for
    the schedule."""

    def __init__(
        self,
        schedule: Schedule,
        setting: Setting,
        *,
        fit: StepTimeFit | None = None,
        minute_of_day: Callable[[], int] = lambda: 0,
    ) -> None:
        self.setting = setting
        self.fit = fit or StepTimeFit()
        self.decisions: deque[Decision] = deque(maxlen=KEPT_DECISIONS)
        self._schedule = schedule
        self._minute_of_day = minute_of_day
        self._goals = schedule.at(minute_of_day())
        self._last: StepRecord | None = None
        self._decided_s = self._changed_s = self._squeezed_s = float("-inf")
        self._decided_streams = 0
        self._stream_keys = self._prompt_keys = 0.0
        self._peaks: deque[tuple[float, int]] = deque(maxlen=PEAK_WINDOWS)  # (window's start, most running)
        self._recomputed = self._computed = 0

    def observe(self, record: StepRecord) -> None:
        """A step is done."""
        self._last = record
        self.fit.observe(record.decode_tokens, record.prompt_tokens, record.key_reads, record.seconds)
        self._note_running(record.end_s, record.running)
        self._recomputed += record.recomputed_tokens
        self._computed += record.tokens

    def planned(self, prompt_tokens: int, decode_rows: int, key_reads: int, decode_key_reads: int) -> None:
        """A step was planned. The next prompt tokens look at as many keys more as this step has prompt tokens."""
        if decode_rows:
            self._stream_keys = decode_key_reads / decode_rows
        if prompt_tokens:
            keys = (key_reads - decode_key_reads) / prompt_tokens + prompt_tokens
            self._prompt_keys = max(keys, KEYS_FADE * self._prompt_keys + (1 - KEYS_FADE) * keys)

    def between_steps(self, now: float, waiting: int, running: int, streams: int) -> Decision | None:
        """Called before each plan: a decision if one is due and changes something. Until there were steps enough
        to know how long they take, nothing changes."""
        if self._last is None or not self.fit.ready or self.fit.model is None:
            return None
        pressed = waiting > 0 and running >= self.setting.n_parallel
        moved = abs(streams - self._decided_streams) > 2 + self._decided_streams // 8
        if now < self._decided_s + INTERVAL_S and not moved and not pressed:
            return None
        self._decided_s, self._decided_streams = now, streams
        self._goals = self._schedule.at(self._minute_of_day())
        snapshot = LoadSnapshot(
            at_s=now,
            model=self.fit.model,
            spread=self.fit.spread,
            streams=streams,
            running=running,
            waiting=waiting,
            peak_running=max((most for _, most in self._peaks), default=running),
            stream_keys=self._stream_keys,
            prompt_keys=self._prompt_keys,
            changed_s=self._changed_s,
            squeezed_s=self._squeezed_s,
        )
        decision = decide(snapshot, self.setting, self._goals)
        if not decision.changed:
            return None
        self.setting, self._changed_s = decision.after, now
        self.decisions.append(decision)
        return decision

    def _note_running(self, now: float, running: int) -> None:
        if not self._peaks or now >= self._peaks[-1][0] + PEAK_WINDOW_S:
            self._peaks.append((now, running))
            if self._recomputed > SQUEEZE_SHARE * self._computed:
                self._squeezed_s = now
            self._recomputed = self._computed = 0
        elif running > self._peaks[-1][1]:
            self._peaks[-1] = (self._peaks[-1][0], running)


def replay(decisions: Iterable[Decision]) -> list[Decision]:
    """The same decisions, made again from their snapshots."""
    return [decide(made.snapshot, made.before, made.goals) for made in decisions]
