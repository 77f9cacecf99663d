"""The torch backend: weights dequantised to one float type at load, ops run by the kernels, or eagerly by plain torch.

Implements the contract in `ops.api` on any device that torch has; on "cpu" it is tested without a GPU. Knows no model
and no other backend's kernels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch

from plait.errors import BackendError
from plait.formats.tensor import F32Array
from plait.ops.api import (
    Attention,
    Executable,
    I32Array,
    KVConfig,
    Program,
    Progress,
    Rope,
    RopeAndStore,
    StepInputs,
)
from plait.ops.check import check_step
from plait.ops.cuda.interpreter import Interpreter
from plait.ops.cuda.memory import TORCH_DTYPES, DeviceKV
from plait.ops.cuda.step import upload
from plait.ops.cuda.weights import load_weights, weight_bytes
from plait.ops.program import vocabulary
from plait.ops.sampling import Sampled, SampleRow, sample_picks

Tensor: TypeAlias = torch.Tensor


LEAST_CAPABILITY = (8, 0)
"""Of the GPU: below, there are no matrix units for bfloat16."""
WORKSPACE = 3 * 2**30
"""Bytes left to activations, captured graphs and libraries."""


class CudaBackend:
    """Computes in `dtype` ("bf16", "f16" or "f32") on `device` ("cuda", "cuda:1", "cpu"), with the Triton kernels or by
    plain torch; without a word, with kernels on CUDA devices and plainly on others.

    Raises BackendError for a device that is not there and a type that is not known."""

    name = "cuda"

    def __init__(self, device: str = "cuda", dtype: str = "bf16", kernels: bool | None = None) -> None:
        if dtype not in TORCH_DTYPES:
            raise BackendError(f"the torch backend computes in {', '.join(TORCH_DTYPES)}, not {dtype}")
        self.device, self.dtype, self.dtype_name = _find_device(device), TORCH_DTYPES[dtype], dtype
        self.kernels = self.device.type == "cuda" if kernels is None else kernels
        _check_kernels(self.device, self.kernels)

    def free_bytes(self) -> int:
        """Device memory that nobody has taken, or 0 where that is not known."""
        return int(torch.cuda.mem_get_info(self.device)[0]) if self.device.type == "cuda" else 0

    def kv_bytes(self, program: Program, fraction: float) -> int:
        """Bytes for KV memory: `fraction` of what the device has in all, less what others hold, the weights, and what
        steps need. Raises BackendError where nothing is left."""
        free, total = torch.cuda.mem_get_info(self.device)
        weights = weight_bytes(program, self.dtype)
        room: int = int(total * fraction) - (total - free) - weights - WORKSPACE
        if room <= 0:
            raise BackendError(
                f"{self.device} has {free / 2**30:.1f} GiB free of {total / 2**30:.1f}; the weights take "
                f"{weights / 2**30:.1f} and steps {WORKSPACE / 2**30:.1f}, which leaves nothing for KV memory within "
                f"--gpu-memory {fraction}"
            )
        return room

    def compile(self, program: Program, kv: KVConfig, progress: Progress | None = None) -> Executable:
        """Loads every weight onto the device and allocates the KV memory."""
        try:
            weights = load_weights(program, self.device, self.dtype, progress)
            memory = DeviceKV(program.kv, kv, _ropes(program), self.device)
        except torch.cuda.OutOfMemoryError:
            free = self.free_bytes() / 2**30
            raise BackendError(
                f"{self.device} has too little memory for this model and its KV memory ({free:.1f} GiB are left); "
                f"give less with --kv-memory or --gpu-memory, or use --device cpu"
            ) from None
        if not self.kernels or _has_slopes(program):
            return CudaExecutable(program, weights.each, memory)
        from plait.ops.cuda.executable import KernelExecutable
        from plait.ops.cuda.kernel_run import Model
        from plait.ops.cuda.products import Choices, Products, measured_products

        halves = self.device.type == "cuda" and self.dtype.itemsize == 2
        products = measured_products(self.device) if halves else Products(self.device, Choices())
        return KernelExecutable(Model.of(program, weights, memory, products))


class CudaExecutable:
    """A program with its weights and KV memory on the device. Made by `CudaBackend.compile`."""

    def __init__(self, program: Program, weights: Mapping[int, Tensor], memory: DeviceKV) -> None:
        self._memory = memory
        self.interpret = Interpreter(program, weights, memory)
        self._vocab = vocabulary(program)

    def run(self, step: StepInputs) -> F32Array:
        """Logits, fresh. Raises ValueError for a step that addresses tokens, rows, slots or pages that do not exist."""
        check_step(step, self._memory.config, self._vocab)
        with torch.no_grad():
            for group, inputs in enumerate(step.kv):
                self._memory.edit(group, inputs)
            if not len(step.tokens):
                return np.empty((0, self._vocab), np.float32)
            logits = self.interpret(upload(step, self._memory.config.page_size, self._memory.device))
            result: F32Array = logits.cpu().numpy()
            return result

    def hidden(self) -> F32Array:
        if self.interpret.hidden is None:
            raise BackendError("the program has no hidden states to show, or no step has run")
        result: F32Array = self.interpret.hidden.float().cpu().numpy()
        return result

    def sample(self, logits: F32Array, picks: Sequence[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        return sample_picks(logits, picks, rows)

    def read_slots(self, group: int, slots: I32Array) -> bytes:
        return self._memory.read(group, slots)

    def write_slots(self, group: int, slots: I32Array, data: bytes) -> None:
        self._memory.write(group, slots, data)

    def kv_bytes(self) -> int:
        return self._memory.nbytes()


def _has_slopes(program: Program) -> bool:
    """Whether keys lose weight by their distance (ALiBi), which the kernels of attention do not know."""
    return any(isinstance(op, Attention) and op.slopes is not None for op in program.instructions)


def _find_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"torch knows no device '{name}': {error}") from None
    if device.type == "cuda":
        count, found = _cuda_devices()
        if (device.index or 0) >= count:
            raise BackendError(f"torch {torch.__version__} cannot use device {name}: {found}; use --device cpu")
    return device


def _cuda_devices() -> tuple[int, str]:
    """How many CUDA devices torch can use, and in words why not more."""
    if torch.version.cuda is None:
        return 0, "it is built without CUDA"
    with warnings.catch_warnings(record=True) as heard:  # torch warns of a driver that is too old, and finds no device
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    told = [str(warning.message).splitlines()[0] for warning in heard]
    if any("driver" in line and "old" in line for line in told):
        return count, f"the NVIDIA driver is too old for its CUDA {torch.version.cuda}; install a newer driver"
    return count, f"it finds {count} of them" if count else "it finds no NVIDIA GPU"


def _check_kernels(device: torch.device, kernels: bool) -> None:
    if not kernels:
        return
    try:
        from plait.ops.cuda.kernels.runtime import runs_kernels
    except ImportError as error:
        raise BackendError(
            f"the kernels need triton ({error}); pip install 'plait[cuda]', or use --device cpu"
        ) from None
    if not runs_kernels(device):
        raise BackendError(f"kernels run on CUDA devices, and not on {device}")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        major, minor = torch.cuda.get_device_capability(device)
        raise BackendError(
            f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}; the kernels need "
            f"{LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]}; use --device cpu"
        )


def _ropes(program: Program) -> dict[int, Rope | None]:
    return {op.layer: op.rope for op in program.instructions if isinstance(op, RopeAndStore)}
