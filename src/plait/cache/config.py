"""Sizes of the paged KV memory, as the bookkeeping sees them. Ints only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """`num_pages[g]` pages in KV group g, page 0 (reserved, never handed out) included; `windows[g]` is the number of
    last tokens that group g's layers look at, None for all of them. `block_tokens` is the number of keys that attention
    sums as one partial: a window group gives its oldest pages back only in whole blocks."""

    page_size: int
    num_pages: tuple[int, ...]
    windows: tuple[int | None, ...] = (None,)
    block_tokens: int = 64
