"""Who comes first, who gives way, who had better wait: pure functions of numbers and token lists.

The one place to change when the order changes. Knows nothing of pages, plans or the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from plait.types import Priority, TokenId

AGE_BUCKET_S = 0.25
"""Requests that arrive within one such span count as equally old."""
AGEING_S = 5.0
"""A waiting request rises by one class in this time, as far as the highest."""
OVERDUE_S = 60.0
"""After this time a request goes before every class and share, by age alone: no wait is without bound."""
FAIR_BUCKET = 512
"""Tenants whose counters lie in one such span of weighted tokens count as equally served."""
OUTPUT_WEIGHT = 2
"""A generated token weighs as much as this many prompt tokens in its tenant's counter (VTC, OSDI'24)."""
MIN_SHARE_WORTH_WAITING = 4
"""A prompt waits for another's pages if they spare it at least one in this many of its tokens."""
MAX_PREEMPTIONS = 3
"""A sample that gave way so often comes back only where its longest end fits, and never gives way again."""

Key: TypeAlias = tuple[int, int, int, int, int, int, int]
Rank: TypeAlias = tuple[int, int, int, int, int]


class Promise(NamedTuple):
    """A first token is in time within `ttft_s` of its request's arrival. `token_s` are the seconds that a prompt token
    takes under the load of the moment."""

    ttft_s: float
    token_s: float


def is_late(promise: Promise, waited_s: float, tokens: int) -> bool:
    """Whether a request with `tokens` to compute before its first one cannot have that in time any more. It yields to
    those that can, but not for ever: once its class rises by ageing it counts like any other."""
    return waited_s < AGEING_S and waited_s + tokens * promise.token_s > promise.ttft_s


def level(priority: int, waited_s: float) -> int:
    """The class after ageing: 0 is the highest, -1 is overdue. A background request does not age."""
    if priority >= Priority.BACKGROUND:
        return priority
    if waited_s >= OVERDUE_S:
        return -1
    return max(0, priority - int(waited_s / AGEING_S))


def rank(returning: bool, arrived_s: float, cached: int, arrival: int, index: int) -> Rank:
    """Order of one tenant's requests of one class: those that gave way, then by age, most cached tokens, arrival."""
    return (0 if returning else 1, int(arrived_s / AGE_BUCKET_S), -cached, arrival, index)


def key(rank: Rank, priority: int, waited_s: float, counter: float, late: bool = False) -> Key:
    """Order of all waiting requests: class after ageing, those that can be in time, fair-share bucket, age bucket, most
    cached tokens, arrival. One that gave way is at the front of its class, and an overdue one asks for no share."""
    at = level(priority, waited_s)
    share = -1 if at < 0 or rank[0] == 0 else int(counter) // FAIR_BUCKET
    return (at, int(late), share, *rank[1:])


def worth_waiting(spared: int, wanted: int) -> bool:
    """Whether a prompt with `wanted` tokens to compute should wait while a running sequence computes `spared` of them.

    It would be done no sooner by itself (prompts are served in order), but for one step's delay; for a few tokens,
    a shared first page say, that delay costs more than the tokens."""
    return spared > 0 and spared * MIN_SHARE_WORTH_WAITING >= wanted


def first_share(wanted: int, budget: int, others: bool) -> int:
    """Tokens of the budget that a prompt gets at first. One that would take it all leaves half to `others` behind it;
    what those do not need comes back to it."""
    return max(1, budget // 2) if others and wanted >= budget else min(wanted, budget)


def shares(wanted: Sequence[int], budget: int) -> list[int]:
    """Tokens of each prompt in a step, the first in order first. Each gets something while the budget lasts."""
    given, left = [], budget
    for number, want in enumerate(wanted):
        share = min(first_share(want, left, number + 1 < len(wanted)), left)
        given.append(share)
        left -= share
    for number, want in enumerate(wanted):
        more = min(want - given[number], left)
        given[number] += more
        left -= more
    return given


def peak_tokens(futures: Sequence[tuple[int, int]]) -> int:
    """The most tokens that running sequences will take beyond what they have now. `futures`: (tokens still to come,
    tokens of its own that its end gives back), in ascending order. All grow by one token a step; when one ends, its
    own tokens are free for the others."""
    peak = given_back = 0
    growing = len(futures)
    for remaining, own in futures:  # at its end those behind it have grown as much, and the growth before it is back
        now = remaining * growing - given_back
        if now > peak:
            peak = now
        given_back += own
        growing -= 1
    return peak


def common_prefix(a: Sequence[TokenId], b: Sequence[TokenId]) -> int:
    """Length of the longest common prefix. Compares slices, so the work is done in C."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
