"""Tokens per second of the CPU kernels alone, on a model of random weights.

    python benchmarks/cpu_step.py [--threads N] [--path avx2] [--format Q4_K_M] [--shape llama-3.2-1b]

Runs steps of the program: no scheduler, no sampling, no tokenizer.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np

from plait.formats.quant import BLOCK_FORMATS
from plait.formats.tensor import F32Array, U8Array
from plait.ops.api import (
    KV_TYPES,
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

PAGE, PAGES = 16, 2048


@dataclass(frozen=True)
class Shape:
    width: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    vocab: int
    head_dim: int = 64


SHAPES = {"small": Shape(512, 8, 8, 2, 1024, 8192), "llama-3.2-1b": Shape(2048, 16, 32, 8, 8192, 128256)}
"""That of the bundled model, and a real one."""


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


SCALES: dict[str, dict[int, float]] = {
    **{name: {0: 5e-4} for name in ("Q8_0", "Q4_0", "Q5_0", "IQ4_NL")},
    **{name: {0: 5e-4, 2: -5e-3} for name in ("Q4_1", "Q5_1")},
    "Q4_K": {0: 1e-4, 2: 7.5e-4},
    "Q5_K": {0: 5e-5, 2: 7.8e-4},
    "IQ4_XS": {0: 1e-5},
    "Q2_K": {80: 2e-3, 82: 3e-3},
    "Q3_K": {108: 5e-4},
    "Q6_K": {208: 2e-5},
}
"""Where a block's half-precision scales lie, and values that keep a model's numbers far from the smallest and largest
that there are (the smallest are slow); the rest may be any bytes."""


def random_weight(rng: np.random.Generator, fmt: str, *shape: int) -> Weight:
    rows, kind = int(np.prod(shape[:-1])), "F32" if len(shape) == 1 else fmt
    if kind not in SCALES:
        values = (rng.standard_normal((rows, shape[-1]), np.float32) / np.sqrt(shape[-1])).astype(np.float32)
        return Weight(RandomTensor("random", shape, kind, BLOCK_FORMATS[kind].quantize(values).view(np.uint8)))
    block = BLOCK_FORMATS[kind]
    data = rng.integers(0, 256, (rows * shape[-1] // block.block_values, block.block_bytes), np.uint8)
    for at, value in SCALES[kind].items():
        data[:, at : at + 2] = np.full(1, value, "<f2").view(np.uint8)
    return Weight(RandomTensor("random", shape, kind, data.reshape(rows, -1)))


def model(fmt: str, shape: Shape) -> Program:
    """`fmt` may be Q4_K_M: Q4_K, with Q6_K for the table and for v and down of half of the layers."""
    rng = np.random.default_rng(0)
    main, finer = ("Q4_K", "Q6_K") if fmt == "Q4_K_M" else (fmt, fmt)
    ops = Ops(
        KVShape(shape.kv_heads, shape.head_dim, shape.head_dim, (KVGroup(tuple(range(shape.layers))),)), shape.heads
    )
    half = shape.head_dim // 2
    rope = Rope(RopeLayout.INTERLEAVED, tuple(10000.0 ** (-i / half) for i in range(half)))
    width, ff, keys = shape.width, shape.ff, shape.kv_heads * shape.head_dim
    table = random_weight(rng, finer, shape.vocab, width)
    norm = Weight(RandomTensor("norm", (width,), "F32", np.ones((1, width), np.float32).view(np.uint8)))
    x = ops.embed(table)
    h = ops.rms_norm(x, norm, 1e-5)
    for layer in range(shape.layers):
        second = finer if layer % 2 else main
        kinds = ((main, shape.heads * shape.head_dim), (main, keys), (second, keys))
        q, k, v = ops.linears(h, tuple(random_weight(rng, kind, n, width) for kind, n in kinds))
        q = ops.rope_and_store(q, k, v, layer=layer, rope=rope)
        mixed = ops.attention(q, layer=layer, scale=shape.head_dim**-0.5)
        h, x = ops.add_rms_norm(ops.linear(mixed, random_weight(rng, main, width, mixed.width)), x, norm, 1e-5)
        gate, up, down = (
            random_weight(rng, kind, *s)
            for kind, s in ((main, (ff, width)), (main, (ff, width)), (second, (width, ff)))
        )
        h, x = ops.add_rms_norm(ops.gated_mlp(h, gate, up, down, Activation.SILU), x, norm, 1e-5)
    return ops.finish(ops.linear(ops.take_rows(h), table))


def step(sequences: int, first: int, count: int, shared: int = 0) -> StepInputs:
    """`count` tokens from position `first` of each of `sequences`, with logits for the last one. Whole pages of the
    first `shared` tokens are the same for all."""
    common = shared // PAGE
    per = 1 + (first + count) // PAGE - common
    entries, starts, slots = [], [0], []
    for s in range(sequences):
        own = 1 + common + s * per
        pages = [*range(1, 1 + common), *range(own, own + per)]
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
    return StepInputs(i32(np.arange(rows) % 8192), positions, seq, i32(range(count - 1, rows, count)), (kv,))


def fill(executable: CpuExecutable) -> None:
    """Some number in all of K and V: memory that nobody wrote to is one page of zeroes, and always in the cache."""
    slots = np.arange(PAGE, PAGES * PAGE, dtype=np.int32)  # page 0 is reserved
    positions, size = slots.tobytes(), len(executable.read_slots(0, slots))
    executable.write_slots(0, slots, bytes(len(positions)) + b"\x2c" * (size - len(positions)))


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
    parser.add_argument("--shape", default="small", choices=SHAPES)
    parser.add_argument("--kv-type", default="f16", choices=KV_TYPES)
    parser.add_argument("--parts", action="store_true", help="how long each kind of instruction takes")
    parser.add_argument("--only", help="rows whose name contains this")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row of the table")
    args = parser.parse_args()
    backend = CpuBackend(args.threads, args.path)
    executable = backend.compile(model(args.format, SHAPES[args.shape]), KVConfig(PAGE, (PAGES,), args.kv_type))
    fill(executable)
    print(f"{args.shape}, {args.format}, {backend.path}, {backend.threads} threads; tokens/s of the best step")
    for name, sequences, first, count, shared in (
        ("decode, 1 sequence, 256 keys", 1, 255, 1, 0),
        ("decode, 4 sequences, 256 keys", 4, 255, 1, 0),
        ("decode, 8 sequences, 256 keys", 8, 255, 1, 0),
        ("decode, 16 sequences, 256 keys", 16, 255, 1, 0),
        ("decode, 32 sequences, 256 keys", 32, 255, 1, 0),
        ("prefill, 256 tokens", 1, 0, 256, 0),
        ("decode, 1 sequence, 16000 keys", 1, 15999, 1, 0),
        ("decode, 32, 1000 keys in common", 32, 1055, 1, 1000),
    ):
        if args.only is not None and args.only not in name:
            continue
        inputs = step(sequences, first, count, shared)
        executable.measure(args.parts)
        print(f"  {name:32} {rate(executable, inputs, sequences * count, args.seconds):9.0f}")
        parts = executable.measured() if args.parts else {}
        for kind, seconds in sorted(parts.items(), key=lambda part: -part[1]):
            print(f"      {kind:28} {seconds / sum(parts.values()):8.1%}")


if __name__ == "__main__":
    main()
