"""Chooses how each product of a shape is computed, by the time of whole decode steps, and keeps that for the backend.

    PYTHONPATH=src python benchmarks/gpu_tune.py [--layers 6] [--rows 1,16,64,128,256,512] --out FILE

A figure taken alone chose wrongly before (decision 26), so a candidate is timed inside a captured step: one product
after another, the best so far in the others' place. FILE belongs in src/plait/ops/cuda/measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import torch
from gpu_shapes import LLAMA_8B, write_model

from gpu import PAGE, header, shape_model, step_of
from plait.ops.api import Activation, KVConfig
from plait.ops.cuda import open_cuda
from plait.ops.cuda.executable import KernelExecutable
from plait.ops.cuda.kernels.rows import Tickets, Tiling, rows_matmul
from plait.ops.cuda.products import Choices, Key

FEW = [Tiling(*t) for t in (
    (32, 128, 1, 4, 5), (32, 128, 2, 4, 5), (32, 256, 2, 4, 4), (64, 128, 1, 4, 4), (64, 128, 2, 4, 4),
    (16, 256, 1, 4, 4), (16, 256, 2, 4, 4), (64, 128, 4, 4, 4),
)]  # fmt: skip
SOME = [Tiling(*t) for t in (
    (32, 128, 1, 4, 4), (32, 128, 2, 4, 4), (64, 128, 1, 4, 3), (64, 128, 2, 4, 3), (64, 64, 1, 4, 5),
    (64, 64, 2, 4, 5), (64, 64, 4, 4, 5), (128, 64, 1, 4, 4), (128, 64, 2, 4, 4), (128, 64, 4, 4, 4),
)]  # fmt: skip
MANY = [Tiling(*t) for t in (
    (64, 64, 1, 4, 4), (64, 64, 2, 4, 4), (128, 64, 1, 8, 4), (128, 64, 2, 8, 4), (128, 64, 3, 8, 4),
    (128, 64, 4, 8, 4), (256, 64, 1, 8, 3), (256, 64, 2, 8, 3), (256, 64, 4, 8, 3),
)]  # fmt: skip
GATED_MOST = 128
"""Columns of a tile that holds two sums."""


def candidates(rows: int, gated: bool) -> list[Tiling]:
    found = FEW if rows <= 16 else SOME if rows <= 64 else MANY
    return [tiling for tiling in found if not gated or tiling.columns <= GATED_MOST]


def products_of(config: dict[str, object]) -> list[tuple[int, int, bool]]:
    """(columns, depth, gated) of each product of a layer, and of the head, in order of their size."""
    width, heads, kv, dim, ff, vocab = (int(str(config[name])) for name in (
        "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size"
    ))  # fmt: skip
    return [(ff, width, True), (width, ff, False), ((heads + 2 * kv) * dim, width, False), (width, heads * dim, False),
            (vocab, width, False)]  # fmt: skip


def compile_one(job: tuple[int, Tiling, bool, bool]) -> str:
    """Fills the cache of compiled kernels; of a tiny matrix, which compiles to the same."""
    rows, tiling, gated, exact = job
    x = torch.zeros((rows, 512), dtype=torch.bfloat16, device="cuda")
    w = torch.zeros((512, 512), dtype=torch.bfloat16, device="cuda")
    try:
        rows_matmul(x, w, None, tiling, Tickets(x.device), Activation.SILU if gated else None,
                    torch.float32 if exact else None)  # fmt: skip
        torch.cuda.synchronize()
    except Exception as error:
        return f"{job}: {type(error).__name__} {str(error)[:100]}"
    return ""


def step_ms(executable: KernelExecutable, rows: int, context: int, repeats: int = 10) -> float:
    """A captured decode step on the device, without draws: the median of some replays."""
    pages = -(-(context + 8) // PAGE)
    tables = np.arange(1, 1 + rows * pages).reshape(rows, pages)
    step = step_of(tables, context, 1, np.arange(rows) % 1000)
    executable.launch(step, [], []).result()
    times = [executable.launch(step, [], []) for _ in range(repeats)]
    return float(np.median([_seconds(each) for each in times])) * 1e3


def _seconds(pending: object) -> float:
    pending.result()  # type: ignore[attr-defined]
    return float(pending.seconds)  # type: ignore[attr-defined]


def timed(executable: KernelExecutable, chosen: dict[Key, Tiling | None], rows: int, context: int) -> float:
    executable.model.products.choices = Choices(dict(chosen))
    executable.graphs.drop()
    return step_ms(executable, rows, context)


def tune(
    executable: KernelExecutable, rows: int, context: int, shapes: list[tuple[int, int, bool]], bad: set[object]
) -> dict[Key, Tiling | None]:
    chosen: dict[Key, Tiling | None] = {(rows, *shape): None for shape in shapes}
    best = start = timed(executable, chosen, rows, context)
    told = []
    for shape in shapes:
        key = (rows, *shape)
        found = []
        for tiling in candidates(rows, shape[2]):
            if (rows, tiling, shape[2], shape[0] > 100_000) in bad:
                continue
            try:
                found.append((timed(executable, chosen | {key: tiling}, rows, context), tiling))
            except Exception as error:
                print(f"  {key} {tiling}: {type(error).__name__} {str(error)[:80]}", flush=True)
        ms, tiling = min(found, key=lambda pair: pair[0]) if found else (best, None)
        told.append(f"{shape[0]}x{shape[1]} {best - ms:+.3f}" + (f" {_short(tiling)}" if ms < 0.998 * best else " -"))
        if ms < 0.998 * best:
            best, chosen[key] = ms, tiling
    print(f"{rows:4} rows: cuBLAS {start:.3f} ms, chosen {best:.3f}: {'; '.join(told)}", flush=True)
    return chosen


def _short(tiling: Tiling | None) -> str:
    return "" if tiling is None else f"({tiling.columns},{tiling.depth},{tiling.split},{tiling.warps},{tiling.stages})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--rows", default="1,2,4,8,16,32,64,128,256,512")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--seconds", type=float, default=300, help="no further number of rows is begun after these")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    begin = time.perf_counter()
    counts = [int(count) for count in args.rows.split(",")]
    config = LLAMA_8B | {"num_hidden_layers": args.layers}
    shapes = products_of(config)
    jobs = sorted({(rows, t, gated, columns > 100_000) for rows in counts for columns, _, gated in shapes
                   for t in candidates(rows, gated)}, key=repr)  # fmt: skip
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        failed = [(job, why) for job, why in zip(jobs, pool.map(compile_one, jobs, 1), strict=True) if why]
    print("\n".join(why for _, why in failed), flush=True)
    print(f"{header()}; {len(jobs)} kernels compiled in {time.perf_counter() - begin:.0f} s", flush=True)
    model = shape_model(str(write_model(Path("/tmp/plait-tune"), config)))
    pages = max(counts) * (-(-(args.context + 8) // PAGE)) + 2
    executable = open_cuda("cuda", "bf16").compile(model.program, KVConfig(PAGE, (pages,), "bf16"))
    assert isinstance(executable, KernelExecutable)
    executable.model.products.lt = None  # tilings are chosen beside cuBLAS's default
    chosen: dict[Key, Tiling | None] = {}
    for rows in counts:
        if time.perf_counter() - begin < args.seconds:
            chosen |= tune(executable, rows, args.context, shapes, {job for job, _ in failed})
    if args.out:
        kept = [[list(key), None if t is None else [t.columns, t.depth, t.split, t.warps, t.stages]]
                for key, t in sorted(chosen.items(), key=repr)]  # fmt: skip
        args.out.write_text("[\n" + ",\n".join(json.dumps(each) for each in kept) + "\n]\n")
    print(f"{time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
