"""Microseconds that a step spends on sampling: the native sampler beside the numpy one that defines it.

    python benchmarks/sampling.py [--threads N] [--path avx2] [--rows 32] [--vocab 8192] [--seconds 0.3]

Medians, the two in turn: of the thread's CPU time with one thread, else of wall time, which neighbours disturb. Logits
are normal with standard deviation 3 (flatter than a model's), or peaked: the best twenty raised by 8.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from plait.formats.tensor import F32Array
from plait.ops.cpu import CpuBackend, _native
from plait.ops.cpu.sampling import PackedParams, sample_natively
from plait.ops.sampling import Sampled, SampleRow, sample_rows
from plait.types import OPENAI_CHAIN, SamplingParams

CHAINS = {
    "greedy": SamplingParams(temperature=0),
    "default": SamplingParams(),
    "openai": SamplingParams(temperature=1, top_k=0, top_p=1, min_p=0, samplers=OPENAI_CHAIN),
    "top_p 0.9": SamplingParams(temperature=1, top_k=0, top_p=0.9, min_p=0, samplers=OPENAI_CHAIN),
}


def logits_of(rows: int, vocab: int, peaked: bool) -> F32Array:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (rows, vocab)).astype(np.float32)
    if peaked:
        best = np.argpartition(logits, -20, axis=1)[:, -20:]
        np.put_along_axis(logits, best, np.take_along_axis(logits, best, 1) + np.float32(8), 1)
    return logits


def measure(calls: list[Callable[[], list[Sampled]]], seconds: float, clock: Callable[[], float]) -> list[float]:
    """Median microseconds of each."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 3:
        for call, taken in zip(calls, times, strict=True):
            start = clock()
            call()
            taken.append(clock() - start)
    return [statistics.median(taken) * 1e6 for taken in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--path", default=CpuBackend.paths()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 32, 128])
    parser.add_argument("--vocab", type=int, nargs="*", default=[8192, 128_256])
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--native-only", action="store_true")
    args = parser.parse_args()
    shape = _native.KvShape(1, 1, 16, 16, 16, _native.KvType.F32, [([0], 0, 2)])
    program, packed = _native.Program(args.path, shape, args.threads), PackedParams()
    print(f"{args.path}, {args.threads} threads; µs a step")
    print(f"{'vocabulary':>10} {'rows':>5} {'logits':>7} {'chain':>10} {'native':>9} {'numpy':>9}")
    for vocab in args.vocab:
        for count in args.rows:
            for peaked in (False, True):
                logits = logits_of(count, vocab, peaked)
                for name, params in CHAINS.items():
                    rows = [SampleRow(replace(params, seed=i), 0, 7, ()) for i in range(count)]
                    native = lambda l=logits, r=rows: sample_natively(program, packed, l, range(len(r)), r)  # noqa: E731, E741
                    calls = [native] if args.native_only else [native, lambda l=logits, r=rows: sample_rows(l, r)]  # noqa: E741
                    taken = measure(calls, args.seconds, time.thread_time if args.threads == 1 else time.perf_counter)
                    figures = " ".join(f"{micros:9.0f}" for micros in taken)
                    print(f"{vocab:10} {count:5} {'peaked' if peaked else 'normal':>7} {name:>10} {figures}")


if __name__ == "__main__":
    main()
