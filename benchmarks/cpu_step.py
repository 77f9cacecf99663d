"""Tokens per second of the CPU kernels alone, on a model of random weights shaped like the bundled one.

    python benchmarks/cpu_step.py [--threads N] [--path avx2] [--format Q8_0]

Runs steps of the program: no scheduler, no sampling, no tokenizer.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from plait.formats.tensor import F32Array, U8Array
from plait.ops.api import (
    Activation,
    KVConfig,
    KVGroup,
    KVInputs,
    KVShape,
    Program,
    Rope,
    RopeLayout,
    StepInputs,
    Weight,
)
from plait.ops.cpu import CpuBackend, CpuExecutable
from plait.ops.recorder import Ops

WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FF, VOCAB = 512, 8, 8, 2, 64, 1024, 8192
PAGE, PAGES = 16, 2048


@dataclass(frozen=True, eq=False)
class RandomTensor:
    name: str
    shape: tuple[int, ...]
    format: str
    data: U8Array

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def raw(self) -> U8Array:
        return self.data

    def numpy(self) -> F32Array:
        return self.data.view(np.float32).reshape(self.shape)


def random_weight(rng: np.random.Generator, fmt: str, *shape: int) -> Weight:
    values = (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
    kind = "F32" if len(shape) == 1 else fmt
    data = quantize(values, GGMLQuantizationType[kind]).view(np.uint8).reshape(shape[0] if len(shape) > 1 else 1, -1)
    return Weight(RandomTensor("random", shape, kind, data))


def model(fmt: str) -> Program:
    rng = np.random.default_rng(0)
    ops = Ops(KVShape(KV_HEADS, HEAD_DIM, HEAD_DIM, (KVGroup(tuple(range(LAYERS))),)), HEADS)
    rope = Rope(RopeLayout.INTERLEAVED, tuple(10000.0 ** (-2 * i / HEAD_DIM) for i in range(HEAD_DIM // 2)))
    table = random_weight(rng, fmt, VOCAB, WIDTH)
    norm = Weight(RandomTensor("norm", (WIDTH,), "F32", np.ones((1, WIDTH), np.float32).view(np.uint8)))
    x = ops.embed(table)
    h = ops.rms_norm(x, norm, 1e-5)
    for layer in range(LAYERS):
        sizes = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM)
        q, k, v = ops.linears(h, tuple(random_weight(rng, fmt, n, WIDTH) for n in sizes))
        q = ops.rope_and_store(q, k, v, layer=layer, rope=rope)
        a = ops.linear(
            ops.attention(q, layer=layer, scale=HEAD_DIM**-0.5), random_weight(rng, fmt, WIDTH, HEADS * HEAD_DIM)
        )
        h, x = ops.add_rms_norm(a, x, norm, 1e-5)
        gate, up, down = (random_weight(rng, fmt, *s) for s in ((FF, WIDTH), (FF, WIDTH), (WIDTH, FF)))
        h, x = ops.add_rms_norm(ops.gated_mlp(h, gate, up, down, Activation.SILU), x, norm, 1e-5)
    return ops.finish(ops.linear(ops.take_rows(h), table))


def step(sequences: int, first: int, count: int) -> StepInputs:
    """`count` tokens from position `first` of each of `sequences`, with logits for the last one."""
    per = 1 + (first + count) // PAGE
    entries, starts, slots = [], [0], []
    for s in range(sequences):
        pages = range(1 + s * per, 1 + (s + 1) * per)
        table = [(page, 0, min(PAGE, first + count - i * PAGE)) for i, page in enumerate(pages)]
        entries += [e for e in table if e[2] > 0]
        starts.append(len(entries))
        slots += [pages[p // PAGE] * PAGE + p % PAGE for p in range(first, first + count)]
    rows = sequences * count

    def i32(values: object) -> np.ndarray:
        return np.asarray(values, np.int32)

    kv = KVInputs(i32(starts), i32(entries), i32(range(rows)), i32(slots))
    positions = i32(list(range(first, first + count)) * sequences)
    seq = np.repeat(i32(range(sequences)), count)
    return StepInputs(i32(np.arange(rows) % VOCAB), positions, seq, i32(range(count - 1, rows, count)), (kv,))


def rate(executable: CpuExecutable, inputs: StepInputs, tokens: int, seconds: float = 2.0) -> float:
    """The best step's tokens per second, over about `seconds`: others may use the machine, too."""
    executable.run(inputs)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        executable.run(inputs)
        best = min(best, time.perf_counter() - start)
    return tokens / best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int)
    parser.add_argument("--path")
    parser.add_argument("--format", default="Q8_0")
    args = parser.parse_args()
    backend = CpuBackend(args.threads, args.path)
    executable = backend.compile(model(args.format), KVConfig(PAGE, (PAGES,), "f16"))
    print(f"{args.format}, {backend.path}, {backend.threads} threads; tokens/s of the best step")
    for name, sequences, first, count in (
        ("decode, 1 sequence, 256 keys", 1, 255, 1),
        ("decode, 8 sequences, 256 keys", 8, 255, 1),
        ("decode, 32 sequences, 256 keys", 32, 255, 1),
        ("prefill, 512 tokens", 1, 0, 512),
    ):
        print(f"  {name:32} {rate(executable, step(sequences, first, count), sequences * count):9.0f}")


if __name__ == "__main__":
    main()
