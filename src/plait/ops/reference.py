"""The reference backend: slow, obvious numpy that runs a recorded program op by op and defines what each op means.

Other backends are tested against it. Knows the contract in `ops.api`; knows no other backend and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from plait.errors import BackendError
from plait.formats.tensor import F32Array
from plait.ops.api import (
    Activate,
    Add,
    Attention,
    Clamp,
    Embed,
    GatedMlp,
    I32Array,
    Instruction,
    KVConfig,
    KVInputs,
    LayerNorm,
    Linear,
    Moe,
    Program,
    Progress,
    RmsNorm,
    Rope,
    RopeAndStore,
    Scale,
    Softcap,
    StepInputs,
    TakeRows,
    Value,
    Weight,
)
from plait.ops.check import check_step
from plait.ops.program import head_of, program_weights, vocabulary
from plait.ops.reference_kv import ReferenceKV
from plait.ops.reference_math import (
    Array,
    activate,
    attend,
    gated_mlp,
    layer_norm,
    matmul,
    moe,
    rms_norm,
    rotate,
    softcap,
    visible_keys,
)
from plait.ops.sampling import Sampled, SampleRow, sample_picks


class ReferenceBackend:
    """Values between ops are rounded to `dtype`; inside an op arithmetic is in `accumulate` (by default `dtype`)."""

    name = "reference"

    def __init__(self, dtype: npt.DTypeLike = np.float32, accumulate: npt.DTypeLike | None = None) -> None:
        self.dtype = np.dtype(dtype)
        self.accumulate = self.dtype if accumulate is None else np.dtype(accumulate)

    def compile(self, program: Program, kv: KVConfig, progress: Progress | None = None) -> ReferenceExecutable:
        """Dequantises every weight and allocates the KV memory. Raises BackendError for an unknown KV type."""
        memory = ReferenceKV(program.kv, kv, _ropes(program))
        weights = _load_weights(program, self.accumulate, progress)
        return ReferenceExecutable(program, memory, weights, self.dtype, self.accumulate)


class ReferenceExecutable:
    """A program with its dequantised weights and its KV memory. Made by `ReferenceBackend.compile`."""

    def __init__(
        self,
        program: Program,
        memory: ReferenceKV,
        weights: dict[int, Array],
        dtype: np.dtype[Any],
        accumulate: np.dtype[Any],
    ) -> None:
        self._program, self._memory, self._weights = program, memory, weights
        self._dtype, self._accumulate = dtype, accumulate
        self._vocab = vocabulary(program)
        self._values: dict[int, Array] = {}
        self._head = head_of(program)
        self._hidden: F32Array = np.zeros((0, self._head.x.width if self._head else 0), np.float32)

    def run(self, step: StepInputs) -> F32Array:
        """Raises ValueError for a step that addresses tokens, rows, slots or pages that do not exist."""
        check_step(step, self._memory.config, self._vocab)
        self._values.clear()
        # Infinities and NaN are results like any other: whoever samples looks for them.
        with np.errstate(all="ignore"):
            for group, inputs in enumerate(step.kv):
                self._memory.edit(group, inputs)
            if not len(step.tokens):
                self._hidden = self._hidden[:0]
                return np.empty((0, self._program.logits.width), np.float32)
            for instruction in self._program.instructions:
                if instruction is self._head:
                    self._leave_logits(step)
                self._execute(instruction, step)
        return self._values[self._program.logits.id].astype(np.float32)

    def hidden(self) -> F32Array:
        if self._head is None:
            raise BackendError("the program has no hidden states to show")
        return self._hidden

    def _leave_logits(self, step: StepInputs) -> None:
        """Keep the hidden states; only rows that want logits go on."""
        assert self._head is not None
        hidden = self._values[self._head.x.id]
        self._hidden = hidden.astype(np.float32)
        self._values[self._head.x.id] = hidden[: len(hidden) - step.hidden_only]

    def sample(self, logits: F32Array, picks: Sequence[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        return sample_picks(logits, picks, rows)

    def read_slots(self, group: int, slots: I32Array) -> bytes:
        return self._memory.read(group, slots)

    def write_slots(self, group: int, slots: I32Array, data: bytes) -> None:
        self._memory.write(group, slots, data)

    def kv_bytes(self) -> int:
        return self._memory.nbytes()

    def _execute(self, op: Instruction, step: StepInputs) -> None:
        match op:
            case Embed():
                self._put(op.out, self._w(op.table)[_table_rows(op, step)])
            case Linear():
                for weight, bias, out in zip(op.weights, op.biases, op.out, strict=True):
                    self._put(out, matmul(self._get(op.x), self._w(weight), self._optional(bias)))
            case RmsNorm():
                self._rms_norm(op)
            case LayerNorm():
                gain, shift = self._w(op.weight), self._optional(op.bias)
                self._put(op.out, layer_norm(self._get(op.x), gain, shift, op.eps, op.groups))
            case RopeAndStore():
                self._rope_and_store(op, step)
            case Attention():
                self._attention(op, step)
            case GatedMlp():
                weights = self._w(op.gate), self._w(op.up), self._w(op.down)
                gate, up, down = (self._optional(bias) for bias in op.biases)
                self._put(op.out, gated_mlp(self._get(op.x), weights, (gate, up, down), op.activation))
            case Moe():
                experts = self._w(op.gate), self._w(op.up), self._w(op.down)
                self._put(op.out, moe(self._get(op.x), self._w(op.router), experts, op))
            case Add():
                self._put(op.out, self._get(op.a) + self._get(op.b))
            case Scale():
                self._put(op.out, self._get(op.x) * self._accumulate.type(op.factor))
            case Softcap():
                self._put(op.out, softcap(self._get(op.x), op.cap))
            case Clamp():
                self._put(op.out, np.clip(self._get(op.x), -op.limit, op.limit))
            case Activate():
                self._put(op.out, activate(self._get(op.x), op.activation))
            case TakeRows():
                self._put(op.out, self._get(op.x)[step.out_rows])
            case _:
                assert_never(op)

    def _rms_norm(self, op: RmsNorm) -> None:
        x = self._get(op.x)
        if op.residual is not None and op.total is not None:
            self._put(op.total, x + self._get(op.residual))
            x = self._get(op.total)
        self._put(op.out, rms_norm(x, self._w(op.weight), op.eps, op.offset, op.groups))

    def _rope_and_store(self, op: RopeAndStore, step: StepInputs) -> None:
        shape, rows = self._program.kv, len(step.tokens)
        q = self._get(op.q).reshape(rows, self._program.n_heads, shape.head_dim)
        k = self._get(op.k).reshape(rows, shape.n_kv_heads, shape.head_dim)
        v = self._get(op.v).reshape(rows, shape.n_kv_heads, shape.v_head_dim)
        if op.rope is not None:
            q, k = rotate(q, step.positions, op.rope), rotate(k, step.positions, op.rope)
        inputs = step.kv[self._memory.group_of(op.layer)]
        source = inputs.store_row
        self._memory.store(op.layer, inputs.store_slot, k[source], v[source], step.positions[source])
        self._put(op.out, q.reshape(rows, -1))

    def _attention(self, op: Attention, step: StepInputs) -> None:
        shape, rows, n_heads = self._program.kv, len(step.tokens), self._program.n_heads
        group = self._memory.group_of(op.layer)
        window = shape.groups[group].window
        sinks = self._optional(op.sinks)
        q = self._get(op.q).reshape(rows, n_heads, shape.head_dim)
        out = np.zeros((rows, n_heads, shape.v_head_dim), self._accumulate)
        for sequence in np.unique(step.row_seq):
            slots = sequence_slots(step.kv[group], int(sequence), self._memory.config.page_size)
            k, v = self._memory.gather(op.layer, slots, self._accumulate)
            key_positions = self._memory.positions(group, slots)
            for row in np.flatnonzero(step.row_seq == sequence):
                visible = visible_keys(int(step.positions[row]), key_positions, window)
                for head in range(n_heads):
                    kv_head = head // (n_heads // shape.n_kv_heads)
                    sink = None if sinks is None else float(sinks[head])
                    bias = self._alibi(op, head, key_positions - step.positions[row])
                    keys, values = k[:, kv_head], v[:, kv_head]
                    out[row, head] = attend(q[row, head], keys, values, visible, op.scale, op.softcap, sink, bias)
        self._put(op.out, out.reshape(rows, -1))

    def _alibi(self, op: Attention, head: int, distances: I32Array) -> Array | None:
        return None if op.slopes is None else self._accumulate.type(op.slopes[head]) * distances

    def _get(self, value: Value) -> Array:
        return self._values[value.id].astype(self._accumulate)

    def _put(self, value: Value, array: Array) -> None:
        assert array.shape[1] == value.width, f"value {value} was computed with shape {array.shape}"
        self._values[value.id] = array.astype(self._dtype)

    def _w(self, weight: Weight) -> Array:
        return self._weights[id(weight.tensor)]

    def _optional(self, weight: Weight | None) -> Array | None:
        return None if weight is None else self._w(weight)


def _table_rows(op: Embed, step: StepInputs) -> I32Array:
    return np.minimum(step.positions, op.table.shape[0] - 1) if op.by_position else step.tokens


def sequence_slots(inputs: KVInputs, sequence: int, page_size: int) -> I32Array:
    """The slots of a sequence's keys, in order, from its page table."""
    entries = inputs.entries[inputs.entry_start[sequence] : inputs.entry_start[sequence + 1]]
    ranges = [np.arange(page * page_size + first, page * page_size + first + count) for page, first, count in entries]
    return np.concatenate([np.zeros(0, np.int32), *ranges]).astype(np.int32)


def _load_weights(program: Program, dtype: np.dtype[Any], progress: Progress | None) -> dict[int, Array]:
    # Keyed by identity: the program, which the executable keeps, keeps the tensors alive.
    weights = program_weights(program)
    total, done = sum(weight.tensor.nbytes for weight in weights), 0
    loaded: dict[int, Array] = {}
    for weight in weights:
        loaded[id(weight.tensor)] = weight.tensor.numpy().astype(dtype)
        done += weight.tensor.nbytes
        if progress is not None:
            progress(done, total)
    return loaded


def _ropes(program: Program) -> dict[int, Rope | None]:
    ropes: dict[int, Rope | None] = {}
    for op in program.instructions:
        if isinstance(op, RopeAndStore) and ropes.setdefault(op.layer, op.rope) != op.rope:
            raise BackendError(f"layer {op.layer} stores K with two different rotary embeddings")
    return ropes
