"""Tokens a second with and without guesses from the context: `python benchmarks/speculation.py [model] [--save]`.

A text that repeats its context: the prompt is a refrain told eight times, and greedy decoding goes on with it. Both
ways run in turn, on fresh sequences. The median of the rounds' ratios, and the best round of each, which a busy machine
disturbs least. A second engine without guesses tells how much the machine itself varies: its ratio is 1 but for that.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

from saving import save

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


def compared(plain: LLM, guessing: LLM, again: LLM, given: list[str]) -> dict[str, float]:
    """The rounds of one number of sequences."""
    counters = guessing._engine._scheduler.counters
    guessed, right, rates = counters.drafted_tokens, counters.accepted_tokens, []
    for _ in range(ROUNDS):
        (a, tokens), (b, same), (c, _) = rate(plain, given), rate(guessing, given), rate(again, given)
        assert tokens == same, "guesses changed a token"
        rates.append((a, b, c))
    guessed, right = counters.drafted_tokens - guessed, counters.accepted_tokens - right
    return {
        "plain": max(a for a, _, _ in rates),
        "guessing": max(b for _, b, _ in rates),
        "ratio": median(b / a for a, b, _ in rates),
        "plain_again_ratio": median(c / a for a, _, c in rates),
        "guessed": guessed,
        "right": right / max(guessed, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    options = parser.parse_args()
    most = max(SIZES)
    with (
        LLM(options.model, n_parallel=most) as plain,
        LLM(options.model, n_parallel=most, draft_max=16) as guessing,
        LLM(options.model, n_parallel=most) as again,
    ):
        given, found = prompts(most), {}
        print("sequences   plain tok/s   guessing tok/s   median ratio   (plain again)   guessed   right")
        for size in SIZES:
            one = found[str(size)] = compared(plain, guessing, again, given[:size])
            print(
                f"{size:9} {one['plain']:13.0f} {one['guessing']:16.0f} {one['ratio']:14.2f} "
                f"{one['plain_again_ratio']:15.2f} {one['guessed']:9.0f} {one['right']:7.0%}"
            )
    if options.save:
        print(f"written to {save('speculation', {'sequences': found})}")


if __name__ == "__main__":
    main()
