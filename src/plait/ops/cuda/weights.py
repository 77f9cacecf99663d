"""Weights on the device: dequantised to one float type, those that share their input in one matrix.

Knows programs and lazy tensors; knows no kernel. What lies on disk in a float type goes over as it is, piece by piece
through pinned memory, several tensors at once: one thread that reads mapped pages is slower than the bus. What must be
made from what lies there is a whole tensor in the host's memory: no more than two at a time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch

from plait.formats.random import RANDOM
from plait.formats.stored import StoredTensor
from plait.formats.tensor import LazyTensor, U8Array
from plait.ops.api import Attention, GatedMlp, LayerNorm, Linear, Moe, Program, Progress, RmsNorm, Weight
from plait.ops.cores import usable_cpus
from plait.ops.program import program_weights

Tensor: TypeAlias = torch.Tensor
PIECE = 16 << 20
"""Bytes that are copied together. A thread has room for two: one is filled while the other is on its way."""
THREADS = 8
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
    for weight in weights:
        key = id(weight.tensor)
        if key not in each:
            kept = torch.float32 if key in exact else dtype
            each[key] = torch.empty(weight.shape, dtype=kept, device=device)
    if device.type != "meta":
        _fill_all([(each[id(weight.tensor)], weight.tensor) for weight in weights], device, progress)
    return DeviceWeights(each, fused)


def _fill_all(pairs: list[tuple[Tensor, LazyTensor]], device: torch.device, progress: Progress | None) -> None:
    total, done = sum(tensor.nbytes for _, tensor in pairs), 0
    filler = _Filler(device, min(PIECE, _whole(max((tensor.nbytes for _, tensor in pairs), default=1))))
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # nothing that is still to run uses this memory
    with ThreadPoolExecutor(min(THREADS, usable_cpus()), "load") as pool:
        try:
            for (_, tensor), _ in zip(pairs, pool.map(filler.fill, pairs), strict=True):
                done += tensor.nbytes
                if progress is not None:
                    progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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


def _whole(nbytes: int) -> int:
    """Rounded up, so that every piece begins with a whole number."""
    return -(-nbytes // 64) * 64


class _Filler:
    """Fills tensors, on whichever thread asks: each has a stream and host memory of its own."""

    def __init__(self, device: torch.device, piece: int) -> None:
        self._device, self._piece, self._own = device, piece, threading.local()
        self._making = threading.Semaphore(2)

    def fill(self, pair: tuple[Tensor, LazyTensor]) -> None:
        target, tensor = pair
        if tensor.format == RANDOM:
            _draw(target, tensor.name)
            return
        stored = AS_STORED.get(tensor.format)
        lies_there = stored is not None and isinstance(tensor, StoredTensor)
        with nullcontext() if lies_there else self._making:
            if stored is None:
                target.copy_(torch.from_numpy(np.require(tensor.numpy(), np.float32, ["C", "W"])))
            else:
                self._copy(target.view(-1), tensor.raw().reshape(-1), stored)

    def _copy(self, target: Tensor, raw: U8Array, stored: torch.dtype) -> None:
        pieces, size = self._pieces(), self._piece  # which may be less than a tensor that is made has
        with torch.cuda.stream(pieces.stream) if pieces.stream else nullcontext():
            for start in range(0, len(raw), size):
                piece = pieces.filled(raw[start : start + size]).view(stored)
                target[start // stored.itemsize :][: len(piece)].copy_(piece, non_blocking=True)
                pieces.sent()

    def _pieces(self) -> _Pieces:
        found: _Pieces | None = getattr(self._own, "pieces", None)
        if found is None:
            found = self._own.pieces = _Pieces(self._device, self._piece)
        return found


class _Pieces:
    """Two pieces of host memory in turn, pinned where the device is a GPU and the system lets them be."""

    def __init__(self, device: torch.device, size: int) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._hosts = [_host_memory(size, self.stream is not None) for _ in range(2)]
        self._sent: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0

    def filled(self, raw: U8Array) -> Tensor:
        """`raw` in the piece whose turn it is, once that is free."""
        event = self._sent[self._turn]
        if event is not None:
            event.synchronize()
        host = self._hosts[self._turn][: len(raw)]
        np.copyto(host.numpy(), raw)
        return host

    def sent(self) -> None:
        """The piece is on its way; where there is no stream, it has arrived."""
        if self.stream is None:
            return
        event = torch.cuda.Event()
        event.record(self.stream)
        self._sent[self._turn] = event
        self._turn = 1 - self._turn


def _host_memory(size: int, pinned: bool) -> Tensor:
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
    except RuntimeError:
        if not pinned:
            raise
        return torch.empty(size, dtype=torch.uint8)  # no more may be pinned: copies are slower, and as right


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
