"""Weights on the device: dequantised to one float type, those that share their input in one matrix.

Knows programs and lazy tensors; knows no kernel. What lies on disk in the wanted type goes over as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch

from plait.formats.random import RANDOM
from plait.formats.tensor import LazyTensor
from plait.ops.api import Attention, GatedMlp, LayerNorm, Linear, Moe, Program, Progress, RmsNorm, Weight
from plait.ops.program import program_weights

Tensor: TypeAlias = torch.Tensor
AS_STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class DeviceWeights:
    """`each` by the identity of its tensor; `fused` by the identities of the parts: matrices over one another."""

    each: Mapping[int, Tensor] = field(default_factory=dict)
    fused: Mapping[tuple[int, ...], Tensor] = field(default_factory=dict)


def load_weights(
    program: Program, device: torch.device, dtype: torch.dtype, progress: Progress | None = None
) -> DeviceWeights:
    """Every weight of the program in `dtype`, but for those whose op computes in float32."""
    weights, exact = program_weights(program), _exact_weights(program)
    each, fused = _places(program, device, dtype)
    total, done = sum(weight.tensor.nbytes for weight in weights), 0
    for weight in weights:
        key = id(weight.tensor)
        if key not in each:
            kept = torch.float32 if key in exact else dtype
            each[key] = torch.empty(weight.shape, dtype=kept, device=device)
        _fill(each[key], weight.tensor)
        done += weight.tensor.nbytes
        if progress is not None:
            progress(done, total)
    return DeviceWeights(each, fused)


def weight_bytes(program: Program, dtype: torch.dtype) -> int:
    """Device bytes of the weights."""
    exact = _exact_weights(program)
    return sum(math.prod(w.shape) * (4 if id(w.tensor) in exact else dtype.itemsize) for w in program_weights(program))


def _places(
    program: Program, device: torch.device, dtype: torch.dtype
) -> tuple[dict[int, Tensor], dict[tuple[int, ...], Tensor]]:
    """Room for matrices over one another, and each one's part of it."""
    each: dict[int, Tensor] = {}
    fused: dict[tuple[int, ...], Tensor] = {}
    for op in program.instructions:
        parts: tuple[Weight, ...] = ()
        if isinstance(op, Linear) and len(op.weights) > 1:
            parts = op.weights
        elif isinstance(op, GatedMlp):
            parts = (op.gate, op.up)
        keys = tuple(id(weight.tensor) for weight in parts)
        if not parts or len(set(keys)) < len(keys) or any(key in each for key in keys):
            continue
        whole = torch.empty((sum(w.shape[0] for w in parts), parts[0].shape[1]), dtype=dtype, device=device)
        fused[keys] = whole
        each.update(zip(keys, whole.split([w.shape[0] for w in parts]), strict=True))
    return each, fused


def _fill(target: Tensor, tensor: LazyTensor) -> None:
    if target.device.type == "meta":
        return
    if tensor.format == RANDOM:
        _draw(target, tensor.name)
    elif tensor.format in AS_STORED:
        raw = np.array(tensor.raw(), copy=target.device.type == "cpu")  # torch warns of an array that is read-only
        flat = _as_tensor(raw).view(AS_STORED[tensor.format])
        target.copy_(flat.view(target.shape))
    else:
        target.copy_(torch.from_numpy(np.require(tensor.numpy(), np.float32, ["C", "W"])))


def _as_tensor(raw: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # it is only read
        return torch.from_numpy(np.ascontiguousarray(raw).reshape(-1))


def _draw(target: Tensor, name: str) -> None:
    """Values of the size that a trained model has: rows of a matrix have a norm near 1, vectors are near 1."""
    generator = torch.Generator(target.device)
    generator.manual_seed(int.from_bytes(name.encode()[-7:], "little"))
    if target.ndim == 1:
        target.uniform_(0.9, 1.1, generator=generator)
    else:
        # Columns of the embedding are read, not multiplied: there 1 / sqrt(width) would be small, but norms follow.
        target.normal_(0, target.shape[-1] ** -0.5, generator=generator)


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
