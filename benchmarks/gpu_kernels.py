"""Times each GPU kernel alone, by replays of a graph over several sets of inputs, beside the bytes it must move.

PYTHONPATH=src python benchmarks/gpu_kernels.py [--only attention,rows,small,sample]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch

from plait.ops.api import Activation, RopeLayout
from plait.ops.cuda.kernels import decode, gate, norm, prefill, rope, rows, sample
from plait.ops.cuda.work import SPLITS, Sequences, work_of

BF16 = torch.bfloat16


def timed(calls: Sequence[Callable[[], object]], repeats: int = 12) -> float:
    """Seconds of one call: the median over replays of a graph that makes each of `calls` once."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call() for call in calls]
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / len(calls))
    del kept
    return float(np.median(times[2:]))


def copy_rate() -> float:
    """Bytes a second of a large copy, read and written."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * len(source) / timed([lambda: target.copy_(source)] * 2)


def read_rate() -> float:
    source = torch.empty(2**30, dtype=torch.float32, device="cuda").uniform_()
    return 4 * len(source) / timed([lambda: torch.sum(source)] * 2)


def matmul_rate() -> float:
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=BF16) for _ in range(2))
    return 2 * 8192**3 / timed([lambda: a @ b] * 2)


def few_rows(rate: float) -> None:
    """Our kernel and cuBLAS on the matrices of an 8B model."""
    matrices = {"qkv": (6144, 4096, False), "out": (4096, 4096, False), "gate+up": (14336, 4096, True),
                "down": (4096, 14336, False), "head": (128256, 4096, False)}  # fmt: skip
    tilings = [
        rows.Tiling(n, k, split, warps, stages)
        for n, k, split, warps, stages in (
            (16, 256, 1, 4, 4), (16, 512, 1, 4, 3), (32, 128, 1, 4, 5), (32, 256, 1, 4, 4), (64, 128, 1, 4, 4),
            (16, 256, 2, 4, 4), (32, 128, 2, 4, 5), (32, 256, 2, 4, 4), (64, 128, 2, 4, 4), (64, 128, 4, 4, 4),
            (32, 256, 4, 4, 3), (128, 64, 1, 4, 4), (64, 128, 8, 4, 4),
        )
    ]  # fmt: skip
    tickets = rows.Tickets(torch.device("cuda"))
    for name, (width, depth, gated) in matrices.items():
        total = 2 * width if gated else width
        copies = max(2, min(12, int(6e8 / (2 * total * depth))))
        weights = [torch.randn(total, depth, device="cuda", dtype=BF16) / 64 for _ in range(copies)]
        for count in (1, 4, 16):
            x = torch.randn(count, depth, device="cuda", dtype=BF16)
            floor = 2 * total * depth / rate
            act = Activation.SILU if gated else None

            def cublas(w: torch.Tensor, x: torch.Tensor = x) -> torch.Tensor:
                y = torch.nn.functional.linear(x, w)
                return gate.gate(y, Activation.SILU) if gated else y

            base = timed([lambda w=w: cublas(w) for w in weights])
            found = []
            for tiling in tilings:
                try:
                    seconds = timed([lambda w=w: rows.rows_matmul(x, w, None, tiling, tickets, act) for w in weights])
                except Exception as error:
                    print(f"  {tiling}: {type(error).__name__} {str(error)[:80]}")
                    continue
                found.append((seconds, tiling))
            found.sort(key=lambda pair: pair[0])
            best = "; ".join(
                f"{s * 1e6:.1f} ({t.columns},{t.depth},{t.split},{t.warps},{t.stages})" for s, t in found[:4]
            )
            share = floor / found[0][0] if found else 0
            print(f"rows {name:8} {count:3}: floor {floor * 1e6:6.1f} us, cuBLAS {base * 1e6:6.1f}, ours {best}; "
                  f"{share:.0%} of the read rate")  # fmt: skip


def attention(rate: float) -> None:
    heads, kv_heads, dim, page = 32, 8, 128, 16
    for count, context in ((1, 128), (4, 128), (64, 128), (256, 128), (16, 2048), (64, 1024), (128, 1024), (256, 1024),
                           (1, 8192), (1, 65536)):  # fmt: skip
        pages = -(-context // page)
        slots = page * (1 + count * pages)
        layers = max(2, min(16, int(1.2e9 / (slots * kv_heads * dim * 4))))
        k, v = ([torch.randn(slots, kv_heads, dim, device="cuda", dtype=BF16) for _ in range(layers)] for _ in "kv")
        table = torch.randperm(count * pages, device="cuda").int() + 1
        positions = torch.zeros(slots, dtype=torch.int32, device="cuda")
        view = table.view(count, pages).long()
        for p in range(pages):
            for i in range(page):
                positions[view[:, p] * page + i] = p * page + i
        starts = (torch.arange(count, device="cuda") * pages).int()
        each = np.arange(count)
        none = np.zeros(0, np.int64)
        work = work_of(Sequences(each, each, none, none, none), np.full(count, context), 32, False)
        device = [torch.tensor(a, device="cuda") for a in (work.items, work.rows)]
        counts = torch.tensor([work.items.shape[1], count], dtype=torch.int32, device="cuda")
        q = torch.randn(count, heads * dim, device="cuda", dtype=BF16)
        at = torch.full((count,), context - 1, dtype=torch.int32, device="cuda")
        out = torch.empty_like(q)
        items = decode.DecodeItems(*device, counts)
        tickets = rows.Tickets(torch.device("cuda"), SPLITS * kv_heads)
        shape = decode.Shape(dim**-0.5, None, None, None)
        where = decode.Pages(table, starts, positions, page)
        calls = [
            lambda a=a, b=b: decode.decode_attention(q, a, b, at, where, items, tickets, shape, out)
            for a, b in zip(k, v, strict=True)
        ]
        seconds = timed(calls)
        moved = count * context * kv_heads * dim * 4
        print(f"decode attention {count:3} x {context:5}: {seconds * 1e6:7.1f} us, {moved / seconds / 1e12:.2f} TB/s, "
              f"{moved / seconds / rate:.0%} of the read rate, {work.items.shape[1]} items")  # fmt: skip


def prompts() -> None:
    heads, kv_heads, dim, page, length = 32, 8, 128, 16, 2048
    for count in (1, 4):
        pages = length // page
        slots = page * (1 + count * pages)
        k, v = (torch.randn(slots, kv_heads, dim, device="cuda", dtype=BF16) for _ in "kv")
        table = torch.arange(count * pages, device="cuda").int() + 1
        positions = torch.cat(
            [torch.zeros(page, device="cuda").int(), torch.arange(length, device="cuda").int().repeat(count)]
        )
        starts = (torch.arange(count, device="cuda") * pages).int()
        none, each = np.zeros(0, np.int64), np.arange(count)
        work = work_of(
            Sequences(none, none, each, each * length, np.full(count, length)), np.full(count, length), 32, False
        )
        q = torch.randn(count * length, heads * dim, device="cuda", dtype=BF16)
        at = torch.arange(length, device="cuda").int().repeat(count)
        out = torch.empty_like(q)
        tiles = torch.tensor(work.tiles, device="cuda")
        number = torch.tensor([work.tiles.shape[1]], dtype=torch.int32, device="cuda")
        shape, where = decode.Shape(dim**-0.5, None, None, None), decode.Pages(table, starts, positions, page)
        seconds = timed([lambda: prefill.prefill_attention(q, k, v, at, where, tiles, number, shape, out)] * 4)
        flops = count * heads * 4 * dim * length * length / 2
        print(f"prompt attention {count} x {length}: {seconds * 1e6:.0f} us, {flops / seconds / 1e12:.0f} TFLOP/s")


def small() -> None:
    for count in (1, 64, 512):
        x, residual = (torch.randn(count, 4096, device="cuda", dtype=BF16) for _ in range(2))
        weight = torch.ones(4096, device="cuda")
        a = timed([lambda: norm.rms_norm(x, residual, weight, 1e-5, 0.0, 1)] * 32)
        qkv = torch.randn(count, 6144, device="cuda", dtype=BF16)
        memory = [torch.zeros(2048, 8, 128, device="cuda", dtype=BF16) for _ in "kv"]
        at, slot = torch.arange(count, device="cuda").int(), torch.arange(count, device="cuda").int() + 16
        frequencies = torch.rand(64, device="cuda", dtype=torch.float64)
        angles = rope.angles(at, frequencies, 1.0)
        parts = qkv.split([4096, 1024, 1024], 1)
        b = timed([lambda: rope.rope_and_store(*parts, angles, RopeLayout.HALF, *memory, at, slot)] * 32)
        c = timed([lambda: rope.angles(at, frequencies, 1.0)] * 32)
        y = torch.randn(count, 28672, device="cuda", dtype=BF16)
        d = timed([lambda: gate.gate(y, Activation.SILU)] * 32)
        print(
            f"small {count:3}: add+norm {a * 1e6:.1f} us, rope+store {b * 1e6:.1f}, "
            f"angles {c * 1e6:.1f}, gate {d * 1e6:.1f}"
        )


def draws() -> None:
    vocabulary = 128256
    for count in (1, 64, 256):
        logits = torch.randn(count, vocabulary, device="cuda") * 2
        for name, stages in (("temperature", []), ("top-k 40, top-p, min-p", [1, 2, 3, 4]), ("top-p alone", [4, 2])):
            ints = torch.zeros(count, sample.INTS, dtype=torch.int32, device="cuda")
            ints[:, 0], ints[:, 8] = torch.arange(count), 40
            ints[:, 5] = 0
            ints[:, 4] = torch.arange(count)
            ints[:, 9 : 9 + len(stages)] = torch.tensor(stages, dtype=torch.int32)
            floats = torch.tensor([[0.6, 0.95, np.log(0.05), 1, 0, 0]] * count, dtype=torch.float64, device="cuda")
            drawn, status = (torch.zeros(count, dtype=torch.int32, device="cuda") for _ in range(2))
            rows_ = sample.Draws(ints, floats, ints[0], bool(stages))
            seconds = timed([lambda: sample.draw(logits, rows_, drawn, status)] * 2, 5)
            print(f"draw {count:3} rows, {name}: {seconds * 1e6:.0f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="attention,prompts,small,draws,rows")
    only = parser.parse_args().only.split(",")
    rate = read_rate()
    print(f"{torch.cuda.get_device_name()}: copy {copy_rate() / 1e12:.2f} TB/s, read {rate / 1e12:.2f}, "
          f"matmul {matmul_rate() / 1e12:.0f} TFLOP/s")  # fmt: skip
    for name, work in (("small", small), ("attention", lambda: attention(rate)), ("prompts", prompts),
                       ("draws", draws), ("rows", lambda: few_rows(rate))):  # fmt: skip
        if name in only:
            try:
                work()
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {str(error)[-600:]}")
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
