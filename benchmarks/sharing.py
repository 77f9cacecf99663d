"""Prompt tokens computed where prompts share a beginning: `python benchmarks/sharing.py [model] [--save]`.

64 requests at once that share 1,000 tokens and add 40 each; 64 equal prompts; and a conversation of ten turns, each
with all before it as its prompt. Counts, not times: they are the same on every machine, and a test asserts them.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import asdict, dataclass

from saving import save

from plait import LLM, SamplingParams
from plait.metrics.catalogue import CACHED_TOKENS, HIT_RATE, PROMPT_TOKENS
from plait.types import TokenId

GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, seed=0)


@dataclass(frozen=True)
class Saved:
    """Prompt tokens `asked` for, `unique` among them (each beginning once), and `computed`; what the metrics say."""

    asked: int
    unique: int
    computed: int
    hit_rate: float

    @property
    def over_unique(self) -> float:
        return self.computed / self.unique

    @property
    def saved(self) -> float:
        return 1 - self.computed / self.asked


class Watch:
    """What an LLM computes from here on."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._before = llm.stats.prompt_tokens, llm._engine.snapshot()

    def saved(self, asked: int, unique: int) -> Saved:
        rows, before = self._before
        after = self._llm._engine.snapshot()
        prompts = after.value(PROMPT_TOKENS) - before.value(PROMPT_TOKENS)
        cached = after.value(CACHED_TOKENS) - before.value(CACHED_TOKENS)
        assert prompts == asked
        assert after.value(HIT_RATE) == after.value(CACHED_TOKENS) / after.value(PROMPT_TOKENS)
        return Saved(asked, unique, self._llm.stats.prompt_tokens - rows, cached / prompts)


def tokens(rng: random.Random, llm: LLM, count: int) -> tuple[TokenId, ...]:
    return tuple(rng.randrange(300, llm.model.vocab_size) for _ in range(count))


def shared_prefix(llm: LLM, requests: int = 64, shared: int = 1000, own: int = 40) -> Saved:
    rng = random.Random(1)
    prefix, watch = tokens(rng, llm, shared), Watch(llm)
    llm.generate([(*prefix, *tokens(rng, llm, own)) for _ in range(requests)], GREEDY)
    return watch.saved(requests * (shared + own), shared + requests * own)


def equal_prompts(llm: LLM, requests: int = 64, length: int = 1000) -> Saved:
    prompt, watch = tokens(random.Random(2), llm, length), Watch(llm)
    llm.generate([prompt] * requests, GREEDY)
    return watch.saved(requests * length, length + requests - 1)


def conversation(llm: LLM, turns: int = 10, said: int = 60) -> Saved:
    """Unique are the user's tokens, and the last one of each answer, which nothing has computed before."""
    rng, watch, prompt, asked = random.Random(3), Watch(llm), tuple[TokenId, ...](), 0
    for _ in range(turns):
        prompt = (*prompt, *tokens(rng, llm, said))
        asked += len(prompt)
        prompt = (*prompt, *llm.generate([prompt], GREEDY)[0].samples[0].token_ids)
    return watch.saved(asked, turns * said + turns - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--save", action="store_true", help="write the counts to benchmarks/results/")
    options = parser.parse_args()
    with LLM(options.model) as llm:
        found = {"shared prefix": shared_prefix(llm), "equal": equal_prompts(llm), "conversation": conversation(llm)}
    for name, one in found.items():
        print(
            f"{name:14} asked {one.asked:6}   unique {one.unique:5}   computed {one.computed:5} "
            f"({one.over_unique:.3f} of the unique ones)   saved {one.saved:.1%}   hit rate {one.hit_rate:.1%}"
        )
    if options.save:
        print(f"written to {save('sharing', {name: asdict(one) for name, one in found.items()})}")


if __name__ == "__main__":
    main()
