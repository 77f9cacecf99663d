"""The torch backend: weights dequantised to one float type at load, ops run eagerly, decode steps captured on request.

Implements the contract in `ops.api` on any device that torch has; on "cpu" it is tested without a GPU. Knows no model
and no other backend's kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch

from plait.errors import BackendError
from plait.formats.tensor import F32Array
from plait.ops.api import (
    Attention,
    Embed,
    I32Array,
    KVConfig,
    LayerNorm,
    Moe,
    Program,
    Progress,
    RmsNorm,
    Rope,
    RopeAndStore,
    StepInputs,
    Weight,
)
from plait.ops.check import check_step
from plait.ops.cuda.graph import DecodeGraph
from plait.ops.cuda.interpreter import Interpreter
from plait.ops.cuda.memory import TORCH_DTYPES, DeviceKV
from plait.ops.cuda.step import upload
from plait.ops.program import program_weights
from plait.ops.sampling import Sampled, SampleRow, sample_picks

Tensor: TypeAlias = torch.Tensor


class CudaBackend:
    """Computes in `dtype` ("bf16", "f16" or "f32") on `device` ("cuda", "cuda:1", "cpu").

    Raises BackendError for a device that is not there and a type that is not known."""

    name = "cuda"

    def __init__(self, device: str = "cuda", dtype: str = "bf16") -> None:
        if dtype not in TORCH_DTYPES:
            raise BackendError(f"the torch backend computes in {', '.join(TORCH_DTYPES)}, not {dtype}")
        self.device, self.dtype = _find_device(device), TORCH_DTYPES[dtype]

    def compile(self, program: Program, kv: KVConfig, progress: Progress | None = None) -> CudaExecutable:
        """Loads every weight onto the device and allocates the KV memory."""
        try:
            weights = _load_weights(program, self.device, self.dtype, progress)
            memory = DeviceKV(program.kv, kv, _ropes(program), self.device)
        except torch.cuda.OutOfMemoryError as error:
            raise BackendError(f"{self.device} has too little memory for this model: {error}") from None
        return CudaExecutable(program, weights, memory)


class CudaExecutable:
    """A program with its weights and KV memory on the device. Made by `CudaBackend.compile`."""

    def __init__(self, program: Program, weights: Mapping[int, Tensor], memory: DeviceKV) -> None:
        self._memory = memory
        self.interpret = Interpreter(program, weights, memory)
        self._vocab = min(op.table.shape[0] for op in program.instructions if isinstance(op, Embed))
        self._graphs: list[DecodeGraph] = []

    def run(self, step: StepInputs) -> F32Array:
        """Logits, fresh. A decode step that fits a captured graph replays the smallest such one.

        Raises ValueError for a step that addresses tokens, rows, slots or pages that do not exist."""
        check_step(step, self._memory.config, self._vocab)
        with torch.no_grad():
            for group, inputs in enumerate(step.kv):
                self._memory.edit(group, inputs)
            if not len(step.tokens):
                return np.empty((0, self._vocab), np.float32)
            for graph in self._graphs:
                if graph.accepts(step):
                    return graph.run(step)
            logits = self.interpret(upload(step, self._memory.config.page_size, self._memory.device))
            result: F32Array = logits.cpu().numpy()
            return result

    def hidden(self) -> F32Array:
        if self.interpret.hidden is None:
            raise BackendError("the program has no hidden states to show, or no step has run")
        result: F32Array = self.interpret.hidden.float().cpu().numpy()
        return result

    def capture(self, batch_size: int, max_pages: int) -> DecodeGraph:
        """Captures a decode step of up to `batch_size` sequences of up to `max_pages` pages; `run` uses it from now
        on. Not on a CUDA device: the same step of fixed shapes, run eagerly."""
        with torch.no_grad():
            graph = DecodeGraph(self.interpret, self._memory.config, batch_size, max_pages, self._memory.device)
        self._graphs = sorted([*self._graphs, graph], key=lambda g: g.batch_size * g.max_keys)
        return graph

    def sample(self, logits: F32Array, picks: Sequence[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        return sample_picks(logits, picks, rows)

    def read_slots(self, group: int, slots: I32Array) -> bytes:
        return self._memory.read(group, slots)

    def write_slots(self, group: int, slots: I32Array, data: bytes) -> None:
        self._memory.write(group, slots, data)

    def kv_bytes(self) -> int:
        return self._memory.nbytes()


def _find_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"torch knows no device '{name}': {error}") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"it finds {count} of them" if torch.version.cuda else "it is built without CUDA"
            raise BackendError(f"torch {torch.__version__} cannot use device {name}: {found}; use --device cpu")
    return device


def _load_weights(
    program: Program, device: torch.device, dtype: torch.dtype, progress: Progress | None
) -> dict[int, Tensor]:
    # Keyed by identity: the executable keeps the program, and that the tensors.
    weights, exact = program_weights(program), _exact_weights(program)
    total, done = sum(weight.tensor.nbytes for weight in weights), 0
    loaded: dict[int, Tensor] = {}
    for weight in weights:
        array = np.require(weight.tensor.numpy(), np.float32, ["C", "W"])  # torch warns of an array that is read-only
        kept = torch.float32 if id(weight.tensor) in exact else dtype
        loaded[id(weight.tensor)] = torch.from_numpy(array).to(device, kept)
        done += weight.tensor.nbytes
        if progress is not None:
            progress(done, total)
    return loaded


def _exact_weights(program: Program) -> set[int]:
    """Weights of what is computed in float32 whatever the type of the rest: norms, routers, sinks."""
    exact: list[Weight | None] = []
    for op in program.instructions:
        match op:
            case RmsNorm():
                exact.append(op.weight)
            case LayerNorm():
                exact += [op.weight, op.bias]
            case Attention():
                exact.append(op.sinks)
            case Moe():
                exact.append(op.router)
            case _:
                pass
    return {id(weight.tensor) for weight in exact if weight is not None}


def _ropes(program: Program) -> dict[int, Rope | None]:
    return {op.layer: op.rope for op in program.instructions if isinstance(op, RopeAndStore)}
