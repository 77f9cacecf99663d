"""The longest gap between two tokens of 16 streams when a long prompt arrives: `python benchmarks/long_prompt.py`.

In turn with chunks as the balanced profile adapts them (ITL bound 50 ms), and without chunking (a budget that holds the
whole prompt, fixed). Times of the arrival: from the step before the prompt came to its first token. The medians of the
rounds. `--save` writes to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median

from saving import save

from plait.api.model import Model
from plait.config import EngineOptions
from plait.control.goals import PROFILES
from plait.engine.build import build_engine
from plait.engine.core import Engine
from plait.types import EngineRequest, SamplingParams, TokenId

STREAMS = 16
WARM_TOKENS = 60
"""Tokens of each stream before the prompt comes; its first steps teach the controller."""


@dataclass(frozen=True)
class Gaps:
    """Milliseconds between two tokens of one stream: the usual ones before the prompt came, and the worst while it was
    computed, which took `ttft_ms`."""

    usual_ms: float
    worst_ms: float
    ttft_ms: float


def request(name: str, prompt: tuple[TokenId, ...], most: int) -> EngineRequest:
    sampling = SamplingParams(temperature=0, max_tokens=most, seed=0, ignore_eos=True)
    return EngineRequest(request_id=name, prompt=prompt, sampling=sampling)


def gaps(engine: Engine, vocab: int, length: int, seed: int) -> Gaps:
    """Streams that run, then a prompt of `length` tokens, until that one's first token."""
    rng = random.Random(seed)

    def drawn(count: int) -> tuple[TokenId, ...]:
        return tuple(rng.randrange(300, vocab) for _ in range(count))

    for stream in range(STREAMS):
        engine.add(request(f"s{stream}", drawn(64), 4000))
    seen: dict[str, list[float]] = {}
    added = 0.0
    while "long" not in seen:
        if not added and all(len(times) >= WARM_TOKENS for times in seen.values()) and len(seen) == STREAMS:
            added = time.perf_counter()
            engine.add(request("long", drawn(length), 1))
        for event in engine.step():
            seen.setdefault(event.request_id, []).append(time.perf_counter())
    first = seen.pop("long")[0]
    usual = [b - a for times in seen.values() for a, b in pairwise(times) if b < added]
    worst = [b - a for times in seen.values() for a, b in pairwise(times) if b >= added]
    # A stream that got nothing since then has waited for at least so long.
    worst += [first - times[-1] for times in seen.values()]
    for name in seen:
        engine.abort(name)
    list(engine.run())
    return Gaps(1000 * median(usual), 1000 * max(worst), 1000 * (first - added))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--length", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    model = Model.load(given.model)
    places = STREAMS + 1
    ways = {
        "chunks": EngineOptions(n_parallel=places, calibrate=1.0),
        "whole": EngineOptions(n_parallel=places, n_batch=given.length + places, adaptive="off"),
    }
    engines = {name: build_engine(model.loaded, options) for name, options in ways.items()}
    found: dict[str, list[Gaps]] = {name: [] for name in ways}
    for number in range(given.rounds):
        for name, engine in engines.items():
            found[name].append(gaps(engine, model.vocab_size, given.length, number))
    bound = 1000 * PROFILES["balanced"].itl_s
    print(f"a prompt of {given.length} tokens amid {STREAMS} streams; the ITL bound is {bound:.0f} ms")
    for name, rounds in found.items():
        usual, worst, ttft = (
            median(getattr(one, key) for one in rounds) for key in ("usual_ms", "worst_ms", "ttft_ms")
        )
        print(f"{name:8} usual gap {usual:7.1f} ms   worst {worst:7.1f} ms   the prompt's first token {ttft:7.1f} ms")
        print("         worst of each round: " + ", ".join(f"{one.worst_ms:.1f}" for one in rounds))
    if given.save:
        figures: dict[str, object] = {name: [asdict(one) for one in rounds] for name, rounds in found.items()}
        where = save("long-prompt", {"length": given.length, "streams": STREAMS, "itl_bound_ms": bound, **figures})
        print(f"written to {where}")


if __name__ == "__main__":
    main()
