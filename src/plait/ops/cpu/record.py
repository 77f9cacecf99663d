"""Turns a recorded program into a native one: storages, weights, then instruction by instruction.

Knows the contract in `ops.api` and the extension; runs nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import assert_never

import numpy as np

from plait.errors import BackendError
from plait.formats.integer_tensor import IntegerTensor
from plait.formats.mapped import is_mapped
from plait.formats.quant import block_format
from plait.formats.tensor import F32Array, U8Array
from plait.ops.api import (
    Activate,
    Activation,
    Add,
    Attention,
    Clamp,
    Embed,
    GatedMlp,
    Instruction,
    KVConfig,
    LayerNorm,
    Linear,
    Moe,
    Program,
    Progress,
    RmsNorm,
    Rope,
    RopeAndStore,
    RopeLayout,
    Rows,
    Scale,
    Softcap,
    TakeRows,
    Value,
    Weight,
)
from plait.ops.cpu import _native
from plait.ops.cpu.repack_cache import KeptWeights
from plait.ops.program import assign_storages, head_values, hidden_of, program_weights, values_written, weights_read

_ROWS = {Rows.TOKENS: _native.Rows.TOKENS, Rows.OUTPUTS: _native.Rows.OUTPUTS}
_LAYOUTS = {RopeLayout.INTERLEAVED: _native.RopeLayout.INTERLEAVED, RopeLayout.HALF: _native.RopeLayout.HALF}
_ACTIVATIONS = {
    Activation.SILU: _native.Activation.SILU,
    Activation.GELU: _native.Activation.GELU,
    Activation.GELU_TANH: _native.Activation.GELU_TANH,
}
_KV_TYPES = {
    "f32": _native.KvType.F32,
    "f16": _native.KvType.F16,
    "bf16": _native.KvType.BF16,
    "q8_0": _native.KvType.Q8_0,
}


def new_program(program: Program, kv: KVConfig, path: str, threads: int) -> _native.Program:
    """A native program without instructions. Raises BackendError for a KV type without kernels."""
    return _native.Program(path, _kv_shape(program, kv), threads)


def record(
    program: Program,
    native: _native.Program,
    kept: KeptWeights | None = None,
    progress: Progress | None = None,
    *,
    planned: bool = False,
) -> dict[str, int]:
    """Add all instructions; returns the native numbers of the matrices, by the weights' names. A weight whose last
    instruction is recorded is reported; what `progress` raises ends the recording. Raises BackendError for a weight
    format without kernels, and for sizes that do not fit together. `planned`: no weight will be read."""
    recorder = _Recorder(program, native, kept, planned)
    prepared = _Prepared(program, progress)
    for op in program.instructions:
        try:
            recorder.add(op)
        except ValueError as error:
            raise BackendError(f"the CPU kernels cannot run this model: {type(op).__name__}: {error}") from None
        prepared.see(op)
    native.finish(recorder.value(program.logits), recorder.value(hidden_of(program)))
    if kept is not None:
        kept.finish(native, recorder.matrices)
    return recorder.matrices


def _kv_shape(program: Program, kv: KVConfig) -> _native.KvShape:
    if kv.kv_type not in _KV_TYPES:
        raise BackendError(f"the CPU kernels store K and V as {', '.join(_KV_TYPES)}, not {kv.kv_type}")
    shape = program.kv
    shape.layer_bytes(kv.kv_type)  # refuses heads that the type cannot hold
    if len(kv.num_pages) != len(shape.groups):
        raise ValueError(f"num_pages has {len(kv.num_pages)} numbers for {len(shape.groups)} KV groups")
    groups = [(g.layers, g.window or 0, n) for g, n in zip(shape.groups, kv.num_pages, strict=True)]
    sizes = (program.n_heads, shape.n_kv_heads, shape.head_dim, shape.v_head_dim, kv.page_size)
    return _native.KvShape(*sizes, _KV_TYPES[kv.kv_type], groups)


class _Recorder:
    """Weights are known by the identity of their tensor, so that tied ones are added once."""

    def __init__(self, program: Program, native: _native.Program, kept: KeptWeights | None, planned: bool) -> None:
        self._native, self._kept, self._planned = native, kept, planned
        self.matrices: dict[str, int] = {}  # by the weight's name
        self._matrices: dict[int, int] = {}
        self._vectors: dict[int, int] = {}
        self._ropes: dict[int, Rope | None] = {}
        self._tables = {id(op.table.tensor) for op in program.instructions if isinstance(op, Embed)}
        storages = assign_storages(program)
        values = sorted(
            (value for op in program.instructions for value in values_written(op)), key=lambda v: storages[v.id]
        )
        head = head_values(program)
        self._values = {
            v.id: native.add_value(storages[v.id], _native.Rows.LOGITS if v.id in head else _ROWS[v.rows], v.width)
            for v in values
        }

    def value(self, value: Value | None) -> int:
        return -1 if value is None else self._values[value.id]

    def add(self, op: Instruction) -> None:
        native, value, matrix, vector = self._native, self.value, self._matrix, self._vector
        match op:
            case Embed():
                native.embed(matrix(op.table), value(op.out), op.by_position)
            case Linear():
                weights, biases = [matrix(w) for w in op.weights], [vector(b) for b in op.biases]
                native.linear(value(op.x), weights, biases, [value(out) for out in op.out])
            case RmsNorm():
                sizes = vector(op.weight), op.eps, op.offset, op.groups
                native.rms_norm(value(op.x), value(op.residual), *sizes, value(op.out), value(op.total))
            case LayerNorm():
                sizes = vector(op.weight), vector(op.bias), op.eps, op.groups
                native.layer_norm(value(op.x), *sizes, value(op.out))
            case RopeAndStore():
                self._rope_and_store(op)
            case Attention():
                # A cap of 0 would divide by it; 0 is the native word for none.
                cap, slopes = op.softcap or 0.0, list(op.slopes or ())
                sinks = vector(op.sinks)
                native.attention(value(op.q), op.layer, op.scale, cap, sinks, slopes, value(op.out))
            case GatedMlp():
                weights, biases = [matrix(w) for w in (op.gate, op.up, op.down)], [vector(b) for b in op.biases]
                native.gated_mlp(value(op.x), weights, biases, _ACTIVATIONS[op.activation], value(op.out))
            case Moe():
                weights = [matrix(w) for w in (op.router, op.gate, op.up, op.down)]
                activation = _ACTIVATIONS[op.activation]
                native.moe(value(op.x), weights, op.top_k, op.normalise, activation, value(op.out))
            case Add():
                native.add(value(op.a), value(op.b), value(op.out))
            case Scale():
                native.scale(value(op.x), op.factor, value(op.out))
            case Softcap():
                native.softcap(value(op.x), op.cap, value(op.out))
            case Clamp():
                native.clamp(value(op.x), op.limit, value(op.out))
            case Activate():
                native.activate(value(op.x), _ACTIVATIONS[op.activation], value(op.out))
            case TakeRows():
                native.take_rows(value(op.x), value(op.out))
            case _:
                assert_never(op)

    def _rope_and_store(self, op: RopeAndStore) -> None:
        if self._ropes.setdefault(op.layer, op.rope) != op.rope:
            raise BackendError(f"layer {op.layer} stores K with two different rotary embeddings")
        rope = op.rope or Rope(RopeLayout.HALF, ())
        values = self.value(op.q), self.value(op.k), self.value(op.v)
        layout = _LAYOUTS[rope.layout]
        self._native.rope_and_store(*values, op.layer, layout, rope.inv_freq, rope.scale, self.value(op.out))

    def _matrix(self, weight: Weight) -> int:
        key = id(weight.tensor)
        if key not in self._matrices:
            supported = _native.supported_formats()
            if weight.format not in supported:
                raise BackendError(
                    f"tensor '{weight.name}' is {weight.format}, which the CPU kernels cannot read; "
                    f"they read {', '.join(supported)}"
                )
            rows = int(np.prod(weight.shape[:-1], dtype=np.int64))
            made = isinstance(weight.tensor, IntegerTensor)
            raw = _blank(weight) if made and self._planned else _usable_bytes(weight.tensor.raw())
            # Blocks made for us are read once, by the repacking: their pages are given back like a file's.
            given_back = is_mapped(raw) or (made and key not in self._tables)
            matrix = self._native.add_matrix(raw, weight.format, rows, weight.shape[-1], given_back)
            self._matrices[key] = self.matrices[weight.name] = matrix
            if self._kept is not None:
                self._kept.offer(self._native, matrix, weight)
        return self._matrices[key]

    def _vector(self, weight: Weight | None) -> int:
        if weight is None:
            return -1
        key = id(weight.tensor)
        if key not in self._vectors:
            values: F32Array = np.ascontiguousarray(weight.tensor.numpy(), dtype=np.float32).reshape(-1)
            self._vectors[key] = self._native.add_vector(values)
        return self._vectors[key]


class _Prepared:
    """Reports the bytes of weights whose last instruction is recorded: a tied embedding is repacked with the last."""

    def __init__(self, program: Program, progress: Progress | None) -> None:
        self._left = Counter(id(w.tensor) for op in program.instructions for w in weights_read(op))
        self._done, self._total = 0, sum(weight.tensor.nbytes for weight in program_weights(program))
        self._progress = progress

    def see(self, op: Instruction) -> None:
        done = 0
        for weight in weights_read(op):
            self._left[id(weight.tensor)] -= 1
            done += 0 if self._left[id(weight.tensor)] else weight.tensor.nbytes
        self._done += done
        if done and self._progress is not None:
            self._progress(self._done, self._total)


def _blank(weight: Weight) -> U8Array:
    """Room for the weight, which takes no memory until it is written."""
    return np.empty((weight.shape[0], block_format(weight.format).row_bytes(weight.shape[1])), np.uint8)


def _usable_bytes(raw: U8Array) -> U8Array:
    """The bytes themselves where the kernels can read them in place: in one piece, and aligned for float32."""
    if raw.flags.c_contiguous and raw.ctypes.data % 4 == 0:
        return raw
    copy = np.empty(raw.shape, np.uint8)
    copy[...] = raw
    return copy
