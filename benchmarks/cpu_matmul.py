"""GOP/s of one product with a repacked weight, by rows, for each path; and the bytes of weights read per second.

    python benchmarks/cpu_matmul.py [--threads N] [--path avx512_vnni] [--format Q4_0] [--inputs 2048] [--outputs 8192]

A product is one step of a program that embeds tokens and multiplies: steps with one weight and with nine of them differ
by eight products, so neither the step's own cost nor the embedding counts. Weights together exceed a core's caches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from cpu_step import random_weight

from plait.formats.quant import BLOCK_FORMATS
from plait.ops.api import KVConfig, KVGroup, KVInputs, KVShape, Program, StepInputs, Weight
from plait.ops.cpu import CpuBackend, CpuExecutable
from plait.ops.recorder import Ops

ROWS = (1, 2, 4, 6, 8, 16, 32, 128)
MORE = 8


def program(table: Weight, matrices: list[Weight]) -> Program:
    ops = Ops(KVShape(1, 2, 2, (KVGroup((0,)),)), 1)
    x = ops.embed(table)
    for matrix in matrices:
        y = ops.linear(x, matrix)
    return ops.finish(ops.take_rows(y))


def step(rows: int) -> StepInputs:
    def i32(values: object) -> np.ndarray:
        return np.asarray(values, np.int32)

    none = i32([])
    kv = KVInputs(i32([0, 0]), none.reshape(0, 3), none, none)
    return StepInputs(i32(np.arange(rows) % 64), i32(np.arange(rows)), i32(np.zeros(rows)), i32([0]), (kv,))


def seconds(executable: CpuExecutable, inputs: StepInputs, clock: Callable[[], float]) -> float:
    start = clock()
    executable.run(inputs)
    return clock() - start


def product_seconds(one: CpuExecutable, many: CpuExecutable, inputs: StepInputs, args: argparse.Namespace) -> float:
    """From the median step of each, in turn; one thread by its CPU time, which neighbours disturb less."""
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    pairs = [(seconds(one, inputs, clock), seconds(many, inputs, clock)) for _ in range(args.repeats)]
    few, all_of_them = (statistics.median(times) for times in zip(*pairs, strict=True))
    return (all_of_them - few) / MORE


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int)
    parser.add_argument("--path")
    parser.add_argument("--format", default="Q4_0", choices=sorted(BLOCK_FORMATS))
    parser.add_argument("--inputs", type=int, default=2048)
    parser.add_argument("--outputs", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=25)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    backend = CpuBackend(args.threads, args.path)
    table = random_weight(rng, "F32", 64, args.inputs)
    matrices = [random_weight(rng, args.format, args.outputs, args.inputs) for _ in range(1 + MORE)]
    one, many = (backend.compile(program(table, m), KVConfig(16, (4,), "f16")) for m in (matrices[:1], matrices))
    print(f"{args.format}, {backend.path}, {backend.threads} threads, {args.inputs} to {args.outputs}")
    print("rows   GOP/s   GB/s of weights")
    for rows in ROWS:
        took = product_seconds(one, many, step(rows), args)
        operations = 2 * rows * args.inputs * args.outputs
        print(f"{rows:4} {operations / took / 1e9:7.0f} {matrices[0].tensor.nbytes / took / 1e9:8.1f}", flush=True)


if __name__ == "__main__":
    main()
