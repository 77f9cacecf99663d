"""The offline rows of the targets, through the library: prompts, mixed lengths, a shared beginning.

PYTHONPATH=src python benchmarks/gpu_offline.py [--smoke] [--only prompts,mixed,shared]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gpu_shapes import LLAMA_8B, SMALL, write_model

from plait.api.llm import LLM
from plait.types import SamplingParams

SAMPLING = {"temperature": 0.6, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "ignore_eos": True}
LOW, HIGH = 100, 1024


def drawn(rng: np.random.Generator, count: int) -> list[int]:
    found: list[int] = rng.integers(0, 4000, count).tolist()
    return found


def run(llm: LLM, prompts: Sequence[list[int]], lengths: Sequence[int]) -> tuple[float, int]:
    """Seconds, and tokens that came out."""
    params = [SamplingParams(max_tokens=n, seed=7, **SAMPLING) for n in lengths]  # type: ignore[arg-type]
    begin, begin_s = time.perf_counter(), time.monotonic()
    answers = llm.generate(prompts, params)
    seconds = time.perf_counter() - begin
    busy = sum(record.seconds for record in llm._engine.records if record.end_s >= begin_s) / seconds
    print(f"  [the device was at work for {busy:.1%} of {seconds:.2f} s]", flush=True)
    tokens = sum(len(answer.samples[0].token_ids) for answer in answers)
    assert tokens == sum(lengths), f"{tokens} tokens of {sum(lengths)}"
    return seconds, tokens


def prompts(llm: LLM, scale: int) -> str:
    rng = np.random.default_rng(1)
    count, length = 16, 2048 // scale
    best = min(run(llm, [drawn(rng, length) for _ in range(count)], [1] * count)[0] for _ in range(3))
    return f"{count} prompts of {length}: {count * length / best:.0f} prompt tokens/s (reach 45000, vLLM 43300)"


def mixed(llm: LLM, scale: int) -> str:
    rng = np.random.default_rng(2)
    count = 512 // scale
    asked = [drawn(rng, n) for n in rng.integers(LOW, HIGH + 1, count)]
    lengths = rng.integers(LOW, HIGH + 1, count).tolist()
    before = llm.stats
    seconds, tokens = run(llm, asked, lengths)
    steps = llm.stats.steps - before.steps
    return (f"{count} requests, prompts and outputs of {LOW} to {HIGH}: {tokens / seconds:.0f} output tokens/s in "
            f"{seconds:.1f} s, {steps} steps of {1e3 * seconds / steps:.1f} ms (reach 14000, vLLM 11560)")  # fmt: skip


def shared(llm: LLM, scale: int) -> str:
    rng = np.random.default_rng(3)
    count, told = 256 // scale, []
    for _ in range(2):
        beginning = drawn(rng, 2048 // scale)
        before = llm.stats.steps
        seconds, tokens = run(llm, [beginning + drawn(rng, 32) for _ in range(count)], [64] * count)
        told.append((tokens / seconds, seconds, llm.stats.steps - before))
    rate, seconds, steps = max(told)
    return (f"{count} requests that share {2048 // scale} tokens, 32 of their own, 64 out: {rate:.0f} output tokens/s "
            f"in {seconds:.2f} s, {steps} steps (reach 16000, vLLM 10070)")  # fmt: skip


ROWS = {"prompts": prompts, "shared": shared, "mixed": mixed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument("--parallel", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8192, help="tokens a step: nobody waits for the next one")
    args = parser.parse_args()
    folder = write_model(Path(tempfile.gettempdir()) / "plait-gpu", SMALL if args.smoke else LLAMA_8B)
    scale = 16 if args.smoke else 1
    begin = time.perf_counter()
    with LLM(folder, load_format="random", device="cuda", adaptive="off", n_parallel=args.parallel,
             n_batch=args.batch) as llm:  # fmt: skip
        print(f"library ready in {time.perf_counter() - begin:.1f} s", flush=True)
        run(llm, [[1] * 40] * 4, [8] * 4)
        for name in args.only.split(","):
            print(ROWS[name](llm, scale), flush=True)


if __name__ == "__main__":
    main()
