"""What the controller sees and says: frozen records of numbers, so that a decision can be kept, shown and replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from plait.control.steptime import StepTime

MOVED = ("n_batch", "n_prefill", "n_parallel", "row_share", "ttft_s", "token_s")
"""What a decision may move, by its name in `Setting`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What to hold: seconds to the first token and between tokens; and the range within which limits may move. A fixed
    limit is not moved at all (a fixed `n_batch` is shared as ever: `n_prefill` stays, too). `guesses`: tokens are
    guessed, so `row_share` is wanted."""

    name: str
    ttft_s: float
    itl_s: float
    least_parallel: int
    most_parallel: int
    most_batch: int
    fixed_batch: bool = False
    fixed_parallel: bool = False
    guesses: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """The limits in force. `n_batch` is the token budget of a step, `n_prefill` what prompts may take of it beside
    streams (None: all that is left), `n_parallel` the sequence limit. `row_share` is the time of a row over that of a
    step without rows, which bounds guesses; 0 while it is not known. `ttft_s` and `token_s` are what the order goes by:
    a request whose age, and `token_s` for each token of its prompt, are together over `ttft_s` comes behind those that
    can be in time; 0 while that is not known."""

    n_batch: int
    n_prefill: int | None
    n_parallel: int
    row_share: float = 0.0
    ttft_s: float = 0.0
    token_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSnapshot:
    """The load at `at_s`. `streams` decoded in the last step; `peak_running` is the most sequences that ran in the last
    seconds; keys are those that a row of a stream, and a prompt token, look at. `spread` is how far steps exceed the
    model's time, as a factor that few exceed. `changed_s` is when a limit was changed last, and `squeezed_s` when pages
    ran out last (both in the past)."""

    at_s: float
    model: StepTime
    spread: float
    streams: int
    running: int
    waiting: int
    peak_running: int
    stream_keys: float
    prompt_keys: float
    changed_s: float
    squeezed_s: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What changed, from what figures, and why: one sentence with numbers for each limit that moved."""

    goals: Goals
    snapshot: LoadSnapshot
    before: Setting
    after: Setting
    reasons: tuple[str, ...]

    @property
    def changed(self) -> tuple[str, ...]:
        """The limits that moved."""
        return tuple(name for name in MOVED if getattr(self.before, name) != getattr(self.after, name))

    def as_dict(self) -> dict[str, Any]:
        """For a log: plain numbers and text."""
        return asdict(self)

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Decision:
        """The inverse of `as_dict`."""
        snapshot = dict(fields["snapshot"])
        snapshot["model"] = StepTime(**snapshot["model"])
        return Decision(
            Goals(**fields["goals"]),
            LoadSnapshot(**snapshot),
            Setting(**fields["before"]),
            Setting(**fields["after"]),
            tuple(fields["reasons"]),
        )
