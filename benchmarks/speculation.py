"""Tokens a second with and without guesses from the context: `python benchmarks/speculation.py [model]`.

A text that repeats its context: the prompt is a refrain told eight times, and greedy decoding goes on with it. Both
ways run in turn, on fresh sequences. The median of the rounds' ratios, and the best round of each, which a busy machine
disturbs least.
"""

from __future__ import annotations

import sys
import time
from statistics import median

from plait import LLM, SamplingParams

ROUNDS = 5
GENERATE = 128
SIZES = (1, 2, 4, 8, 16)
GREEDY = SamplingParams(temperature=0, max_tokens=GENERATE, ignore_eos=True, seed=0)


def prompts(count: int) -> list[str]:
    """Refrains that differ from each other, each told several times."""
    names = ["cat", "dog", "fox", "owl", "hen", "cow", "bee", "ant", "pig", "rat", "elk", "emu"]
    return [
        " ".join(
            [f"The {names[i % 12]} said, I see {2 + i // 12} red balls, a blue box and the {names[(i + 5) % 12]}."] * 8
        )
        for i in range(count)
    ]


def rate(llm: LLM, given: list[str]) -> tuple[float, list[tuple[int, ...]]]:
    """Tokens a second from the first token on, and the tokens."""
    times: list[float] = []
    tokens: dict[int, tuple[int, ...]] = {}
    for delta in llm.stream(given, GREEDY):
        times.append(time.perf_counter())
        tokens[delta.prompt_index] = tokens.get(delta.prompt_index, ()) + delta.token_ids
    return len(given) * GENERATE / (times[-1] - times[0]), [tokens[i] for i in range(len(given))]


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else None
    plain = LLM(model, n_parallel=max(SIZES))
    guessing = LLM(model, n_parallel=max(SIZES), draft_max=16)
    given = prompts(max(SIZES))
    print("sequences   plain tok/s   guessing tok/s   median ratio   accepted/guessed")
    for size in SIZES:
        rates = []
        counters = guessing._engine._scheduler.counters
        before = counters.accepted_tokens, counters.drafted_tokens
        for _ in range(ROUNDS):
            (a, tokens), (b, same) = rate(plain, given[:size]), rate(guessing, given[:size])
            assert tokens == same, "guesses changed a token"
            rates.append((a, b))
        share = (counters.accepted_tokens - before[0]) / max(counters.drafted_tokens - before[1], 1)
        print(
            f"{size:9} {max(a for a, _ in rates):13.0f} {max(b for _, b in rates):16.0f}"
            f" {median(b / a for a, b in rates):14.2f}   {share:.2f}"
        )
    plain.close()
    guessing.close()


if __name__ == "__main__":
    main()
