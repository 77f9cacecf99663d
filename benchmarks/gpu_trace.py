"""What the GPU does in a decode step: microseconds a step of each kernel, from torch's profiler, and the gaps.

PYTHONPATH=src python benchmarks/gpu_trace.py [--points 1x128,64x128,256x128] [--shape NAME] [--trace FILE.json]
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity, profile

from gpu import PAGE, decode_row, header, shape_model
from plait.ops.api import KVConfig
from plait.ops.cuda import open_cuda
from plait.ops.cuda.executable import KernelExecutable
from plait.types import SamplingParams

SAMPLING = SamplingParams(temperature=0.6, top_k=0, top_p=1.0, min_p=0.0, seed=7)
NAME = 70


def trace(executable: KernelExecutable, count: int, context: int, steps: int, file: str | None) -> None:
    decode_row(executable, count, context, 4, SAMPLING)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        own, wall, _ = decode_row(executable, count, context, steps, SAMPLING)
    spans = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    by_name: dict[str, list[float]] = defaultdict(list)
    busy, reached = 0.0, spans[0][0]
    for start, end, name in spans:
        by_name[name].append(end - start)
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    whole = reached - spans[0][0]
    print(
        f"{count} x {context}: device {own:.2f} ms, wall {wall:.2f} ms a step; no kernel ran for {1 - busy / whole:.1%}"
    )
    for name, times in sorted(by_name.items(), key=lambda pair: -sum(pair[1]))[:14]:
        each = sum(times) / (steps + 4)
        print(
            f"  {each:8.1f} us a step, {len(times) / (steps + 4):6.1f} x {sum(times) / len(times):7.2f}: {name[:NAME]}"
        )
    if file:
        profiler.export_chrome_trace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", default="1x128,64x128,256x128")
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--trace", help="write the last point's trace there, for a viewer of Chrome traces")
    args = parser.parse_args()
    print(header(), flush=True)
    points = [tuple(map(int, point.split("x"))) for point in args.points.split(",")]
    model = shape_model(args.shape)
    pages = max(count * (-(-(context + args.steps + 12) // PAGE) + 1) for count, context in points) + 1
    executable = open_cuda("cuda", "bf16").compile(model.program, KVConfig(PAGE, (pages,), "bf16"))
    assert isinstance(executable, KernelExecutable)
    for count, context in points:
        trace(executable, count, context, args.steps, args.trace if (count, context) == points[-1] else None)


if __name__ == "__main__":
    main()
