"""Runs a recorded program op by op on tensors. Knows the instructions, weights and KV memory; never waits for the
device and never looks at a number, so that a step of fixed shapes can be captured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch.nn import functional

from plait.ops.api import (
    Attention,
    Embed,
    GatedMlp,
    Instruction,
    Linear,
    Program,
    RmsNorm,
    Rope,
    RopeAndStore,
)
from plait.ops.cuda import formulas
from plait.ops.cuda.memory import DeviceKV
from plait.ops.cuda.step import DeviceStep
from plait.ops.cuda.values import Values
from plait.ops.program import head_of

Tensor: TypeAlias = torch.Tensor


class Interpreter:
    """A program with its weights (by the identity of their tensor) and its KV memory."""

    def __init__(self, program: Program, weights: Mapping[int, Tensor], memory: DeviceKV) -> None:
        self._program, self._weights, self._memory = program, weights, memory
        self._head = head_of(program)
        self.hidden: Tensor | None = None  # the hidden states of the last step, (L, width)
        ropes = {op.rope for op in program.instructions if isinstance(op, RopeAndStore) and op.rope is not None}
        self._inv_freq = {
            rope: torch.tensor(rope.inv_freq, dtype=torch.float64, device=memory.device) for rope in ropes
        }
        slopes = {op.slopes for op in program.instructions if isinstance(op, Attention) and op.slopes is not None}
        self._slopes = {each: torch.tensor(each, dtype=torch.float32, device=memory.device) for each in slopes}

    def __call__(self, step: DeviceStep) -> Tensor:
        """Logits, (L, vocabulary), float32."""
        for positions, group in zip(self._memory.positions, step.groups, strict=True):
            positions.index_copy_(0, group.store_slot, step.positions[group.store_row].int())
        run = _Run(self._program, self._weights, self._memory, step, self._rope_tables(step), self._slopes)
        for op in self._program.instructions:
            if op is self._head:
                self.hidden = run.leave_logits(op)
            run.execute(op)
        return run.values[self._program.logits.id].float()

    def _rope_tables(self, step: DeviceStep) -> dict[Rope, tuple[Tensor, Tensor]]:
        return {
            rope: formulas.rope_table(step.positions, inv_freq, rope.scale) for rope, inv_freq in self._inv_freq.items()
        }


class _Run(Values):
    """One step: its inputs and the values so far."""

    def __init__(
        self,
        program: Program,
        weights: Mapping[int, Tensor],
        memory: DeviceKV,
        step: DeviceStep,
        rope_tables: Mapping[Rope, tuple[Tensor, Tensor]],
        slopes: Mapping[tuple[float, ...], Tensor],
    ) -> None:
        super().__init__(weights, step.out_rows)
        self.program, self.memory = program, memory
        self.step, self.rope_tables, self.slopes = step, rope_tables, slopes

    def leave_logits(self, head: Linear) -> Tensor:
        """The hidden states; only rows that want logits go on."""
        hidden = self._get(head.x)
        self._put(head.x, hidden[: len(hidden) - self.step.hidden_only])
        return hidden

    def execute(self, op: Instruction) -> None:
        match op:
            case Embed():
                self._put(op.out, functional.embedding(self._table_rows(op), self._w(op.table)))
            case Linear():
                for weight, bias, out in zip(op.weights, op.biases, op.out, strict=True):
                    self._put(out, functional.linear(self._get(op.x), self._w(weight), self._optional(bias)))
            case RmsNorm():
                self._rms_norm(op)
            case RopeAndStore():
                self._rope_and_store(op)
            case Attention():
                self._attention(op)
            case GatedMlp():
                weights = self._w(op.gate), self._w(op.up), self._w(op.down)
                gate, up, down = (self._optional(bias) for bias in op.biases)
                self._put(op.out, formulas.gated_mlp(self._get(op.x), weights, (gate, up, down), op.activation))
            case _:
                super().execute(op)

    def _rms_norm(self, op: RmsNorm) -> None:
        x = self._get(op.x)
        if op.residual is not None and op.total is not None:
            x = x + self._get(op.residual)
            self._put(op.total, x)
        self._put(op.out, formulas.rms_norm(x, self._w(op.weight), op.eps, op.offset, op.groups))

    def _rope_and_store(self, op: RopeAndStore) -> None:
        shape = self.program.kv
        q = self._get(op.q).view(-1, self.program.n_heads, shape.head_dim)
        k = self._get(op.k).view(-1, shape.n_kv_heads, shape.head_dim)
        v = self._get(op.v).view(-1, shape.n_kv_heads, shape.v_head_dim)
        if op.rope is not None:
            q, k = (formulas.rotate(x, self.rope_tables[op.rope], op.rope.layout) for x in (q, k))
        group = self.step.groups[self.memory.group_of(op.layer)]
        for stored, new in zip(self.memory.layer(op.layer), (k, v), strict=True):
            stored.index_copy_(0, group.store_slot, new[group.store_row].to(stored.dtype))
        self._put(op.out, q.reshape(-1, op.out.width))

    def _attention(self, op: Attention) -> None:
        shape, index = self.program.kv, self.memory.group_of(op.layer)
        sinks = self._optional(op.sinks)
        q = self._get(op.q).view(-1, self.program.n_heads, shape.head_dim)
        k, v = self.memory.layer(op.layer)
        out = q.new_zeros((len(q), op.out.width))
        for block in self.step.groups[index].blocks:
            key_positions = self.memory.positions[index][block.key_slots]
            row_positions = self.step.positions[block.rows]
            visible = formulas.visible_keys(row_positions, key_positions, block.present, shape.groups[index].window)
            keys, values = k[block.key_slots], v[block.key_slots]
            bias = self._alibi(op, row_positions, key_positions)
            attended = formulas.attend(q[block.rows], keys, values, visible, op.scale, op.softcap, sinks, bias)
            out.index_copy_(0, block.rows.view(-1), attended.view(-1, op.out.width).to(out.dtype))
        self._put(op.out, out)

    def _alibi(self, op: Attention, positions: Tensor, key_positions: Tensor) -> Tensor | None:
        return None if op.slopes is None else formulas.alibi(self.slopes[op.slopes], positions, key_positions)

    def _table_rows(self, op: Embed) -> Tensor:
        return self.step.positions.clamp(max=op.table.shape[0] - 1) if op.by_position else self.step.tokens
