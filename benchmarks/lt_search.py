"""How an algorithm is looked for and when one is kept; over times that others take. Knows no device."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

Candidate = TypeVar("Candidate")
Key = TypeVar("Key", bound=Hashable)
LEAST_GAIN = 0.01
"""Of a product's time, for its choice to be kept."""
LEAST_CHAIN_GAIN = 0.001
"""Of a chain's time, for each choice in it."""


def search(
    measure: Callable[[Candidate], float | None],
    name: Callable[[Candidate], Hashable],
    start: Iterable[Candidate],
    nearby: Callable[[Candidate], Iterable[Candidate]],
    most: int,
    rounds: int,
) -> list[tuple[float, Candidate]]:
    """(seconds, candidate) of those that can be used, the quickest first: all of `start`, then up to `most` new ones
    near each of up to `rounds` quick ones. `measure` says None for one that cannot be used."""
    known: set[Hashable] = set()
    found: list[tuple[float, Candidate]] = []
    left: set[Hashable] = set()

    def attempt(candidates: Iterable[Candidate]) -> None:
        for candidate in candidates:
            known.add(name(candidate))
            seconds = measure(candidate)
            if seconds is not None:
                found.append((seconds, candidate))
        found.sort(key=lambda pair: pair[0])

    def unknown(candidates: Iterable[Candidate]) -> Iterable[Candidate]:
        return (candidate for candidate in candidates if name(candidate) not in known)

    attempt(unknown(start))
    for _ in range(rounds):
        seeds = [candidate for _, candidate in found[:3] if name(candidate) not in left]
        if not seeds:
            break
        left.add(name(seeds[0]))
        attempt(islice(unknown(nearby(seeds[0])), most))
    return found


def worth_keeping(default: float, best: float) -> bool:
    return best < (1 - LEAST_GAIN) * default


def helpful(choices: Sequence[Key], timed: Callable[[list[frozenset[Key]]], list[float]]) -> frozenset[Key]:
    """Those of `choices` without any of which the whole is slower; none, if it is as quick without all of them. `timed`
    gives the seconds of the whole with each of some sets of choices, measured in turns."""
    kept = frozenset(choices)
    while kept:
        ordered = [key for key in choices if key in kept]
        all_of_them, none, *without = timed([kept, frozenset(), *(kept - {key} for key in ordered)])
        needed = (1 + LEAST_CHAIN_GAIN) * all_of_them
        if none < needed:
            return frozenset()
        seconds, key = min(zip(without, ordered, strict=True), key=lambda pair: pair[0])
        if seconds >= needed:
            return kept
        kept -= {key}
    return kept
