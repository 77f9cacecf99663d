"""Nanoseconds of the KV bookkeeping, for 256 sequences that decode: `python benchmarks/cache.py [context]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache

SEQUENCES = 256
PAGE_SIZE = 16
STEPS = 64


def prepared(context: int, windows: tuple[int | None, ...]) -> KVCache:
    """Sequences with different prompts of `context` tokens, all computed."""
    pages = SEQUENCES * ((context + STEPS) // PAGE_SIZE + 2)
    cache = KVCache(CacheConfig(PAGE_SIZE, (pages,) * len(windows), windows))
    for seq in range(SEQUENCES):
        tokens = [seq, *range(1, context)]
        cache.open(seq, tokens)
        cache.reserve(seq, context)
        cache.take_edits()
        cache.commit(seq, tokens)
    return cache


def decode(context: int, windows: tuple[int | None, ...] = (None,)) -> None:
    cache = prepared(context, windows)
    groups = range(len(windows))
    spent = {"reserve": 0, "table": 0, "commit": 0, "take_edits": 0}
    for step in range(STEPS):
        marks = [time.perf_counter_ns()]
        for seq in range(SEQUENCES):
            cache.reserve(seq, 1)
        marks.append(time.perf_counter_ns())
        for seq in range(SEQUENCES):
            for group in groups:
                cache.table(seq, group)
        marks.append(time.perf_counter_ns())
        for seq in range(SEQUENCES):
            cache.commit(seq, (step,))
        marks.append(time.perf_counter_ns())
        cache.take_edits()
        marks.append(time.perf_counter_ns())
        for name, begin, end in zip(spent, marks, marks[1:], strict=False):
            spent[name] += end - begin
    calls = STEPS * SEQUENCES
    print(f"decode, context {context}, {len(windows)} group(s), ns a sequence: ", end="")
    print(", ".join(f"{name} {ns / calls:.0f}" for name, ns in spent.items()), end="")
    print(f"; {SEQUENCES} sequences {sum(spent.values()) / STEPS / 1e6:.3f} ms a step")


def timed(name: str, calls: int, unit: str, work: Callable[[], object]) -> None:
    begin = time.perf_counter_ns()
    work()
    print(f"{name}: {(time.perf_counter_ns() - begin) / calls:.0f} ns {unit}")


def prefixes(context: int) -> None:
    cache = prepared(context, (None,))
    tokens = [[seq, *range(1, context), 0] for seq in range(SEQUENCES)]
    pages = SEQUENCES * (context // PAGE_SIZE)
    timed("cached_prefix", pages, "a page", lambda: [cache.cached_prefix(t) for t in tokens])
    timed("close", pages, "a page", lambda: [cache.close(seq) for seq in range(SEQUENCES)])
    timed("open", pages, "a page", lambda: [cache.open(seq, tokens[seq]) for seq in range(SEQUENCES)])
    for seq in range(SEQUENCES):
        cache.close(seq)
    cache.open(0)
    timed("reserve, evicting", pages, "a page", lambda: cache.reserve(0, cache.available() * PAGE_SIZE))


def main() -> None:
    context = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    decode(context)
    decode(context, (None, 512))
    prefixes(context)


if __name__ == "__main__":
    main()
