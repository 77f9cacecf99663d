"""Rehearses warm-ups as on a GPU of compute capability 9.0, on a machine that may have none; prints JSON. A script,
since Triton must not run as an interpreter here.

    python -m support.rehearsal models NAME ...    what each model's warm-up launches, as a whole and one of each kind
    python -m support.rehearsal compile            compiles two kernels, and asks in vain for one that there is not
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import torch
import triton
from triton.backends.compiler import GPUTarget

from plait.models.registry import LoadedModel
from plait.ops.api import KVConfig
from plait.ops.cuda.compile_worker import Job, is_compiled
from plait.ops.cuda.compiling import compile_jobs, rehearse
from plait.ops.cuda.executable import KernelExecutable
from plait.ops.cuda.kernel_run import Model
from plait.ops.cuda.memory import DeviceKV
from plait.ops.cuda.products import Choices, Products
from plait.ops.cuda.weights import load_weights
from support.families import load_tiny

META = torch.device("meta")
PARALLEL, BATCH = 20, 100


class PosedDriver:
    """What Triton asks of a driver up to the first launch."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def executable(model: LoadedModel) -> KernelExecutable:
    """On no device at all."""
    program = model.program
    memory = DeviceKV(program.kv, KVConfig(16, (40,) * len(program.kv.groups), "bf16"), {}, META)
    weights = load_weights(program, META, torch.bfloat16)
    return KernelExecutable(Model.of(program, weights, memory, Products(META, Choices())))


def both(model: LoadedModel) -> tuple[list[Job], list[Job]]:
    """What every instruction of the warm-up launches, and what the rehearsal finds."""
    made = executable(model)

    def everything() -> None:
        made._try_draws()
        for capacity, several in (*made._capacities(PARALLEL, BATCH), *made._sharing(PARALLEL, BATCH)):
            made.graphs.of(capacity, True, several).replay()

    return rehearse(everything), rehearse(lambda: made.rehearse(PARALLEL, BATCH))


def capability(device: torch.device | None = None) -> tuple[int, int]:
    """As torch answers: of the current device, and of none that is not CUDA's."""
    assert device is None, device
    return 9, 0


def main() -> None:
    triton.runtime.driver.set_active(PosedDriver())
    torch.cuda.get_device_capability = capability
    with torch.no_grad():
        if sys.argv[1] == "models":
            found = {name: both(load_tiny(name, "safetensors")) for name in sys.argv[2:]}
            print(json.dumps({name: [sorted(map(repr, jobs)) for jobs in pair] for name, pair in found.items()}))
            return
        jobs = {job.name: job for job in both(load_tiny("qwen3", "safetensors"))[1]}
        small = [jobs["_store_positions"], jobs["_embed"]]
        before = [is_compiled(job) for job in small]
        failed = compile_jobs([*small, replace(small[0], name="nothing")])
        print(json.dumps({"before": before, "after": [is_compiled(job) for job in small], "failed": failed}))


if __name__ == "__main__":
    main()
