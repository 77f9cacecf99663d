"""Who comes first, who gives way, who had better wait: pure functions of numbers and token lists.

The one place to change when the order changes. Knows nothing of pages, plans or the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from plait.types import TokenId

MIN_SHARE_WORTH_WAITING = 4
"""A prompt waits for another's pages if they spare it at least one in this many of its tokens."""


def head_room(num_running: int) -> int:
    """Pages of each KV group to leave free at an admission: one for every sequence that is already running, so that
    the newcomer is not preempted within the next `page_size` steps. With nothing running, none: progress is sure."""
    return num_running


def worth_waiting(spared: int, wanted: int) -> bool:
    """Whether a prompt with `wanted` tokens to compute should wait while a running sequence computes `spared` of them.

    It would be done no sooner by itself (prompts are served in order), but for one step's delay; for a few tokens,
    a shared first page say, that delay costs more than the tokens."""
    return spared > 0 and spared * MIN_SHARE_WORTH_WAITING >= wanted


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
