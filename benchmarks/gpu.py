"""CUDA on the shape of Llama-3.1-8B with random weights: correctness first, then decode steps beside their floors.

    PYTHONPATH=src python benchmarks/gpu.py [--smoke] [--shape NAME or a directory with config.json] [--out FILE]

A decode step is timed as the loop runs it: step n + 1 is launched, from tokens that are still on the device, before
step n is waited for. `device` is what the GPU took, `wall` includes everything.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from gpu_kernels import copy_rate, matmul_rate, read_rate
from gpu_shapes import SHAPES

from plait.formats.random import open_random
from plait.models.registry import LoadedModel, load_model
from plait.ops.api import KVConfig, KVInputs, StepInputs
from plait.ops.cuda import open_cuda
from plait.ops.cuda.executable import KernelExecutable
from plait.ops.reference import ReferenceBackend
from plait.ops.sampling import SampleRow
from plait.types import SamplingParams

PAGE = 16
POINTS = ((1, 128), (4, 128), (16, 128), (64, 128), (128, 128), (256, 128), (512, 128), (16, 2048), (64, 1024),
          (128, 1024), (256, 1024))  # fmt: skip
VLLM_MS = dict(zip(POINTS, (4.87, 4.95, 5.13, 5.97, 7.26, 10.79, 19.2, 6.06, 7.68, 11.0, 19.1), strict=True))
"""vLLM 0.23.0 on one H200."""
REACH_MS = dict(zip(POINTS, (4.2, 4.25, 4.4, 5.0, 5.8, 8.8, 16.0, 5.4, 6.7, 9.3, 16.2), strict=True))


def shape_model(name: str) -> LoadedModel:
    if Path(name).is_dir():
        return load_model(open_random(Path(name)))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(SHAPES[name]))
        return load_model(open_random(Path(folder)))


def step_of(tables: np.ndarray, length: int, new: int, tokens: np.ndarray, outputs: bool = True) -> StepInputs:
    """`new` tokens of each sequence whose pages are `tables` (sequences, pages) and that then has `length` tokens."""
    count = len(tables)
    pages = -(-length // PAGE)
    entries = np.zeros((count, pages, 3), np.int32)
    entries[:, :, 0], entries[:, :, 2] = tables[:, :pages], PAGE
    entries[:, -1, 2] = length - PAGE * (pages - 1)
    at = np.arange(length - new, length)
    slots = tables[:, at // PAGE] * PAGE + at % PAGE
    rows = np.arange(count * new, dtype=np.int32)
    kv = KVInputs(
        (np.arange(count + 1) * pages).astype(np.int32),
        entries.reshape(-1, 3),
        rows,
        slots.reshape(-1).astype(np.int32),
    )
    out = rows[new - 1 :: new] if outputs else rows[:0]
    return StepInputs(
        tokens.astype(np.int32), np.tile(at, count).astype(np.int32), np.repeat(np.arange(count), new).astype(np.int32),
        out, (kv,),
    )  # fmt: skip


def check(model_name: str) -> list[str]:
    """A small model's steps against the reference in float32; the last with a beginning that all share."""
    lines = []
    model = shape_model(model_name)
    exact = dataclasses.replace(model)
    rng = np.random.default_rng(0)
    for dtype, bound in (("f32", 1e-4), ("f16", 0.02), ("bf16", 0.16)):
        config = KVConfig(PAGE, (64,), dtype)
        ours = open_cuda("cuda", dtype).compile(DrawnProgram.of(exact), config)
        theirs = ReferenceBackend().compile(DrawnProgram.of(exact), KVConfig(PAGE, (64,), "f32"))
        tables = (rng.permutation(60) + 1).reshape(5, 12)
        alike = np.concatenate((np.tile(np.arange(1, 21), (6, 1)), np.arange(21, 33).reshape(6, 2)), 1)
        worst = 0.0
        for own, length, new in (
            (tables, 70, 70), (tables, 100, 30), (tables, 101, 1), (tables, 102, 1), (tables, 103, 1),
            (alike[:1], 320, 320), (alike, 330, 10), (alike, 331, 1), (alike, 332, 1),
        ):  # fmt: skip
            step = step_of(own, length, new, rng.integers(0, model.vocab_size, len(own) * new))
            got, want = ours.run(step), np.array(theirs.run(step))
            worst = max(worst, float(np.abs(got - want).max() / want.std()))
        verdict = "ok" if worst < bound else "TOO FAR"
        lines.append(
            f"{model_name}, {dtype}: largest difference {worst:.2e} of the logits' deviation, bound {bound} {verdict}"
        )
    return lines


class DrawnProgram:
    """The same random numbers for both backends: tensors that pose as float32 from a file."""

    @staticmethod
    def of(model: LoadedModel) -> object:
        for weight in {id(w): w for w in _weights(model)}.values():
            if weight.tensor.format == "RANDOM":
                object.__setattr__(weight, "tensor", _Fixed(weight.tensor.name, weight.tensor.numpy()))
        return model.program


def _weights(model: LoadedModel) -> list[object]:
    from plait.ops.program import program_weights

    return program_weights(model.program)


class _Fixed:
    format = "F32"

    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self._values, self.shape, self.nbytes = name, values, values.shape, values.nbytes

    def numpy(self) -> np.ndarray:
        return self._values

    def raw(self) -> np.ndarray:
        return self._values.reshape(-1, self.shape[-1]).view(np.uint8)


def decode_row(
    executable: KernelExecutable, count: int, context: int, steps: int, params: SamplingParams
) -> tuple[float, float, float]:
    """Milliseconds a step: on the device, in all; and the share of the time that the device was idle."""
    pages = -(-(context + steps + 8) // PAGE)
    tables = np.arange(1, 1 + count * pages).reshape(count, pages)
    positions = executable.model.memory.positions[0]
    slot = torch.arange(PAGE, PAGE * (1 + count * pages), device=positions.device)
    positions[slot] = ((slot - PAGE) % (pages * PAGE)).int()
    rng = np.random.default_rng(1)
    picks = list(range(count))
    device, flying, started = [], [], 0.0
    warm = 4
    for n in range(steps + warm):
        if n == warm:
            while flying:
                flying.pop(0).result()
            torch.cuda.synchronize()
            started = time.perf_counter()
        tokens = rng.integers(0, 1000, count) if n == 0 else -1 - np.arange(count)
        step = step_of(tables, context + 1 + n, 1, tokens)
        rows = [SampleRow(params, i, context + 1 + n, ()) for i in range(count)]
        flying.append(executable.launch(step, picks, rows))
        if len(flying) > 1:
            flying[0].result()
            if n > warm:
                device.append(flying[0].seconds)
            flying.pop(0)
    while flying:
        flying.pop(0).result()
    wall = (time.perf_counter() - started) / steps
    own = float(np.median(device))
    return own * 1e3, wall * 1e3, max(0.0, 1 - own / wall)


def floor_ms(model: LoadedModel, count: int, context: int, rate: float, flops: float) -> float:
    """The larger of reading the weights and the arithmetic, and then reading the keys and values."""
    matrices = model.n_parameters - model.config.vocab * model.config.d_model
    kv = count * context * model.kv.n_layers * model.kv.layer_bytes("bf16")
    return (max(2 * matrices / rate, 2 * matrices * count / flops) + kv / rate) * 1e3


def prefill_row(executable: KernelExecutable, count: int, length: int, chunk: int) -> float:
    """Prompt tokens a second: `count` prompts of `length`, some at a time."""
    each = max(1, chunk // length)
    pages = length // PAGE
    tables = np.arange(1, 1 + count * pages).reshape(count, pages)
    rng = np.random.default_rng(2)
    best = 0.0
    for _ in range(2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        last = None
        for first in range(0, count, each):
            part = tables[first : first + each]
            step = step_of(part, length, length, rng.integers(0, 1000, len(part) * length))
            rows = [SampleRow(SamplingParams(temperature=0.0), 0, length, ()) for _ in part]
            last = executable.launch(step, list(range(len(part))), rows)
        if last is not None:
            last.result()
        best = max(best, count * length / (time.perf_counter() - start))
    return best


def header() -> str:
    driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True,
                            text=True, check=False).stdout.strip()  # fmt: skip
    import triton

    return (f"{time.strftime('%Y-%m-%d')}, {torch.cuda.get_device_name()}, driver {driver}, torch {torch.__version__}, "
            f"triton {triton.__version__}, Python {platform.python_version()}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a small shape, a few steps")
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines: list[str] = []

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(line)
        if args.out:
            args.out.write_text("\n".join(lines) + "\n")

    tell(header())
    if not args.no_check:
        for line in check("small"):
            tell(line)
    rate, flops = read_rate(), matmul_rate()
    tell(f"read {rate / 1e12:.2f} TB/s, copy {copy_rate() / 1e12:.2f} TB/s, bf16 product {flops / 1e12:.0f} TFLOP/s")
    torch.cuda.empty_cache()
    model = shape_model("small" if args.smoke else args.shape)
    start = time.perf_counter()
    tokens = 8192 if args.smoke else 256 * (1024 + 64) + 1024
    backend = open_cuda("cuda", "bf16")
    executable = backend.compile(model.program, KVConfig(PAGE, (tokens // PAGE + 1,), "bf16"))
    assert isinstance(executable, KernelExecutable)
    torch.cuda.synchronize()
    tell(f"weights drawn and KV memory taken in {time.perf_counter() - start:.1f} s")
    for part in (*executable.model.memory._k, *executable.model.memory._v):
        part.normal_()
    params = SamplingParams(temperature=0.6, top_k=0, top_p=1.0, min_p=0.0, seed=7)
    tell("decode: sequences x context: floor, device, wall in ms (device idle), reach and vLLM on an H200")
    for count, context in ((1, 128), (4, 128)) if args.smoke else POINTS:
        begin = time.perf_counter()
        own, wall, idle = decode_row(executable, count, context, args.steps, params)
        tell(
            f"{count:4} x {context:5}: floor {floor_ms(model, count, context, rate, flops):6.2f}  device {own:6.2f}  "
            f"wall {wall:6.2f} (idle {idle:4.1%})  reach {REACH_MS[count, context]:5.2f}  vLLM "
            f"{VLLM_MS[count, context]:5.2f}   [{time.perf_counter() - begin:.1f} s]"
        )
    if not args.smoke:
        for chunk in (4096, 8192):
            tell(f"prompts 16 x 2048, {chunk} a step: {prefill_row(executable, 16, 2048, chunk):.0f} tokens/s")


if __name__ == "__main__":
    main()
