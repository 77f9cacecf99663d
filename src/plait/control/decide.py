"""The decision: a pure function of a load snapshot, the limits in force, and the goals.

The prompt tokens of a step beside streams are the most that keep it within the ITL bound; the sequence limit follows
the queue up and, after a while, the load down. Moves are damped: a limit that breaks the bound falls at once; it rises
only by a real gain.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.control.records import Decision, Goals, LoadSnapshot, Setting

AIM = 0.92
"""Steps aim at this share of the ITL bound."""
LEAST_CHUNK = 16
"""Prompt tokens that every step has room for, whatever the bound: prompts must come to an end."""
ROUND = 8
"""Budgets are multiples of this."""
RISE = 1.12
"""A budget rises only by at least this factor,"""
REST_S = 0.25
"""and not sooner than this after the last change."""
QUIET = 0.5
"""The sequence limit falls if at most this share of it was used lately,"""
ROOM = 1.5
"""to this multiple of what was used."""
SQUEEZE_S = 5.0
"""After pages ran out the sequence limit does not rise for so long."""
MOST_SHARE = 100.0
LEAST_SHARE = 0.001
SHARE_MOVES = 0.25
"""`row_share` is moved where it is off by more than this part of it."""
FIRST_AIM = 0.8
"""A request counts as in time while its first token can come within this share of the TTFT bound."""
TOKEN_MOVES = 0.25
"""`token_s` is moved where it is off by more than this part of it."""
LEAST_TOKEN_S = 1e-9
ALONE_SHARE = 0.25
"""A step without streams may take this share of the TTFT bound: who arrives meanwhile waits for its end."""


def decide(snapshot: LoadSnapshot, setting: Setting, goals: Goals) -> Decision:
    """The limits for this load. Nothing changes where nothing is to be gained; see `Decision.changed`."""
    costs = _Costs(snapshot, goals)
    n_batch, n_prefill, why_batch = setting.n_batch, setting.n_prefill, ""
    n_parallel, why_parallel = setting.n_parallel, ""
    row_share, why_share = setting.row_share, ""
    ttft_s, token_s, why_order = setting.ttft_s, setting.token_s, ""
    if not goals.fixed_parallel:
        n_parallel, why_parallel = _parallel(snapshot, setting, goals, costs)
    if not goals.fixed_batch:
        n_batch, n_prefill, why_batch = _batch(snapshot, setting, goals, costs)
    if not (goals.fixed_parallel and goals.fixed_batch):
        ttft_s, token_s, why_order = _order(n_prefill or n_batch, setting, goals, costs)
    if goals.guesses:
        row_share, why_share = _row_share(setting, costs)
    reasons = tuple(why for why in (why_batch, why_order, why_parallel, why_share) if why)
    after = Setting(n_batch, n_prefill, n_parallel, row_share, ttft_s, token_s)
    return Decision(goals, snapshot, setting, after, reasons)


@dataclass(frozen=True, slots=True)
class _Costs:
    """Seconds of the parts of a step, as far as this load tells."""

    snapshot: LoadSnapshot
    goals: Goals

    @property
    def target_s(self) -> float:
        """How long a step may take by the model, so that few exceed the bound."""
        return AIM * self.goals.itl_s / self.snapshot.spread

    @property
    def row_s(self) -> float:
        """Of a stream's row."""
        return self.snapshot.model.decode_row + self.snapshot.model.key_read * self.snapshot.stream_keys

    @property
    def prompt_s(self) -> float:
        """Of a prompt token."""
        return self.snapshot.model.prompt_token + self.snapshot.model.key_read * self.snapshot.prompt_keys

    def chunk(self, streams: int, target_s: float) -> float:
        """Prompt tokens that fit into a step of `target_s` beside the streams."""
        left = target_s - self.snapshot.model.step - streams * self.row_s
        most = self.goals.most_batch
        return min(left / self.prompt_s, most) if self.prompt_s > 0 else most

    def most_streams(self) -> int:
        """Streams whose step, with the least chunk, holds the bound."""
        left = self.target_s - self.snapshot.model.step - LEAST_CHUNK * self.prompt_s
        most = self.goals.most_parallel
        return int(max(min(left / self.row_s, most), 0)) if self.row_s > 0 else most


def _batch(snapshot: LoadSnapshot, setting: Setting, goals: Goals, costs: _Costs) -> tuple[int, int | None, str]:
    """(budget of a step, prompt tokens beside streams, why they moved)."""
    streams = max(snapshot.streams, 1)
    chunk = max(costs.chunk(streams, costs.target_s), min(LEAST_CHUNK, goals.most_batch))
    alone_s = max(costs.target_s, ALONE_SHARE * goals.ttft_s / snapshot.spread)
    alone = max(costs.chunk(0, alone_s), LEAST_CHUNK, streams + chunk)
    rested = snapshot.at_s >= snapshot.changed_s + REST_S
    now = setting.n_batch if setting.n_prefill is None else setting.n_prefill
    n_prefill: int | None = _damped(now, _rounded(chunk, goals.most_batch), rested)
    n_batch = _damped(setting.n_batch, _rounded(alone, goals.most_batch), rested)
    if n_prefill == now and setting.n_prefill is None:
        n_prefill = None
    if n_batch == setting.n_batch and n_prefill == setting.n_prefill:
        return n_batch, n_prefill, ""
    moved = f"n_prefill {now} to {n_prefill or now}, n_batch {setting.n_batch} to {n_batch}: "
    return n_batch, n_prefill, moved + _why_batch(costs, streams, chunk)


def _why_batch(costs: _Costs, streams: int, chunk: float) -> str:
    busy_s = costs.snapshot.model.step + streams * costs.row_s
    room = costs.chunk(streams, costs.target_s)
    held = "" if room >= LEAST_CHUNK else ", which the bound leaves no room for: prompts have to go on"
    return (
        f"{streams} streams take {1000 * busy_s:.1f} ms, a prompt token {1e6 * costs.prompt_s:.0f} us; steps aim at "
        f"{1000 * costs.target_s:.1f} of {1000 * costs.goals.itl_s:.0f} ms (they vary by {costs.snapshot.spread:.2f}), "
        f"so {chunk:.0f} prompt tokens fit{held}"
    )


def _damped(now: int, wanted: int, rested: bool) -> int:
    """Down at once, up when it is worth it."""
    if wanted < now:
        return wanted if wanted < 0.97 * now else now
    return wanted if rested and wanted >= RISE * now else now


def _rounded(tokens: float, most: int) -> int:
    """Within bounds; a multiple of ROUND, unless it is small."""
    whole = int(min(tokens, most))
    return max(whole - whole % ROUND if whole >= 4 * ROUND else whole, 1)


def _row_share(setting: Setting, costs: _Costs) -> tuple[float, str]:
    """(what a row costs of a step without rows, why that moved)."""
    step_s, row_s = costs.snapshot.model.step, costs.row_s
    share = row_s / step_s if row_s < MOST_SHARE * step_s else MOST_SHARE
    share = max(share, LEAST_SHARE)
    if setting.row_share and abs(share - setting.row_share) <= SHARE_MOVES * setting.row_share:
        return setting.row_share, ""
    return share, (
        f"row_share {setting.row_share:.3f} to {share:.3f}: a row takes {1e6 * row_s:.0f} us, a step "
        f"{1e6 * step_s:.0f} us before its rows, and a guess has to be worth its row"
    )


def _order(chunk: int, setting: Setting, goals: Goals, costs: _Costs) -> tuple[float, float, str]:
    """(seconds within which a first token is in time, those of a prompt token, why they moved)."""
    ttft_s = FIRST_AIM * goals.ttft_s
    busy_s = costs.snapshot.model.step + costs.snapshot.streams * costs.row_s
    token_s = max(busy_s / chunk + costs.prompt_s, LEAST_TOKEN_S)
    near = abs(token_s - setting.token_s) <= TOKEN_MOVES * setting.token_s
    if near and setting.ttft_s == ttft_s:
        return ttft_s, setting.token_s, ""
    why = (
        f"token_s {setting.token_s:.6f} to {token_s:.6f}, ttft_s {setting.ttft_s:.3f} to {ttft_s:.3f}: a prompt token "
        f"takes that beside {costs.snapshot.streams} streams; whose first one can come within {1000 * ttft_s:.0f} ms "
        "goes before whose cannot"
    )
    return ttft_s, token_s, why


def _parallel(snapshot: LoadSnapshot, setting: Setting, goals: Goals, costs: _Costs) -> tuple[int, str]:
    """(sequence limit, why it moved)."""
    now = setting.n_parallel
    cap = max(min(costs.most_streams(), goals.most_parallel), goals.least_parallel)
    if snapshot.streams >= cap and now > cap and now > goals.least_parallel:
        held = goals.itl_s * 1000
        return cap, (
            f"n_parallel {now} to {cap}: {snapshot.streams} streams take "
            f"{1000 * (snapshot.model.step + snapshot.streams * costs.row_s):.1f} ms a step of the {held:.0f} ms bound"
        )
    squeezed = snapshot.at_s < snapshot.squeezed_s + SQUEEZE_S
    if squeezed and snapshot.running < now and now > goals.least_parallel:
        fewer = max(min(snapshot.running, goals.most_parallel), goals.least_parallel)
        return fewer, f"n_parallel {now} to {fewer}: the pages ran out, {snapshot.running} sequences is what they hold"
    asked = snapshot.running + snapshot.waiting
    if snapshot.waiting and snapshot.running >= now and not squeezed:
        more = min(cap, asked)
        if more > now:
            return more, (
                f"n_parallel {now} to {more}: {snapshot.waiting} samples wait and all places are taken; the ITL bound "
                f"leaves room for {cap}"
            )
    used = max(snapshot.peak_running, asked)
    fewer = max(round(ROOM * used), goals.least_parallel)
    if used <= QUIET * now and fewer < now:
        return fewer, f"n_parallel {now} to {fewer}: it is quiet, {used} sequences ran at most lately"
    return now, ""
