"""Runs a recorded program with the Triton kernels. Never waits for the device and never looks at a number, so that a
step of fixed shapes can be captured."""

from __future__ import annotations

from dataclasses import dataclass
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
    RopeLayout,
    Value,
    Weight,
)
from plait.ops.cuda import formulas
from plait.ops.cuda.kernels.decode import DecodeItems, Pages, Shape, decode_attention
from plait.ops.cuda.kernels.embed import embed
from plait.ops.cuda.kernels.norm import rms_norm
from plait.ops.cuda.kernels.prefill import prefill_attention
from plait.ops.cuda.kernels.rope import Table, angles, rope_and_store, store_positions
from plait.ops.cuda.kernels.rows import Tickets
from plait.ops.cuda.kernels.shared import SharedItems
from plait.ops.cuda.memory import DeviceKV
from plait.ops.cuda.products import Products
from plait.ops.cuda.staging import StepTensors
from plait.ops.cuda.values import Values
from plait.ops.cuda.weights import DeviceWeights
from plait.ops.cuda.work import SPLITS
from plait.ops.program import distinct, head_of, last_uses

Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True, slots=True)
class Model:
    """A program with its weights, its KV memory and what its products need. `biases` are those of fused matrices;
    `head` is the value that logits are made from by scaling and capping alone, None if there is none. `tickets` are for
    `decode_attention`. `done`: for each instruction the values that no later one reads, so that a step of many rows
    holds those of one layer, not of all."""

    program: Program
    weights: DeviceWeights
    memory: DeviceKV
    products: Products
    biases: dict[tuple[int, ...], Tensor | None]
    inv_freq: dict[Rope, Tensor]
    head: Value | None
    tickets: Tickets
    done: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(program: Program, weights: DeviceWeights, memory: DeviceKV, products: Products) -> Model:
        ropes = {op.rope for op in program.instructions if isinstance(op, RopeAndStore) and op.rope is not None}
        inv_freq = {rope: torch.tensor(rope.inv_freq, dtype=torch.float64, device=memory.device) for rope in ropes}
        biases: dict[tuple[int, ...], Tensor | None] = {}
        for op in program.instructions:
            if isinstance(op, Linear):
                biases[_keys(op.weights)] = _fused_bias(op.weights, op.biases, weights)
            elif isinstance(op, GatedMlp):
                biases[_keys((op.gate, op.up))] = _fused_bias((op.gate, op.up), op.biases[:2], weights)
        head = head_of(program)
        tickets = Tickets(memory.device, SPLITS * memory.shape.n_kv_heads)
        last = head.out[0] if head else None
        return Model(program, weights, memory, products, biases, inv_freq, last, tickets, _done(program))

    def without_numbers(self) -> Model:
        """One of each kind of instruction, on the device "meta": tensors that have shapes and no memory."""
        meta = torch.device("meta")
        weights = DeviceWeights(
            {key: each.to(meta) for key, each in self.weights.each.items()},
            {keys: each.to(meta) for keys, each in self.weights.fused.items()},
        )
        memory = DeviceKV(self.memory.shape, self.memory.config, {}, meta)
        products = Products(meta, self.products.choices, self.products.lt)
        return Model.of(distinct(self.program), weights, memory, products)


def run_program(model: Model, step: StepTensors, drawn: Tensor, single: bool, several: bool) -> Tensor:
    """Logits, (outputs, vocabulary). `single` and `several` say which kinds of sequences there may be."""
    for memory, group in zip(model.memory.positions, step.groups, strict=True):
        store_positions(step.positions, group.store_row, group.store_slot, memory)
    tables = {rope: angles(step.positions, freq, rope.scale) for rope, freq in model.inv_freq.items()}
    run = _Run(model, step, drawn, tables, single, several)
    for op, done in zip(model.program.instructions, model.done, strict=True):
        run.execute(op)
        for value in done:
            del run.values[value]
    return run.values[model.program.logits.id]


class _Run(Values):
    def __init__(
        self, model: Model, step: StepTensors, drawn: Tensor, tables: dict[Rope, Table], single: bool, several: bool
    ) -> None:
        super().__init__(model.weights.each, step.out_rows)
        self.model, self.step, self.drawn, self.tables = model, step, drawn, tables
        self.single, self.several = single, several

    def execute(self, op: Instruction) -> None:
        match op:
            case Embed():
                self._embed(op)
            case Linear():
                self._linear(op)
            case RmsNorm():
                self._rms_norm(op)
            case RopeAndStore():
                self._rope_and_store(op)
            case Attention():
                self._attention(op)
            case GatedMlp():
                self._gated_mlp(op)
            case _:
                super().execute(op)

    def _embed(self, op: Embed) -> None:
        table = self._w(op.table)
        if op.by_position:
            rows = self.step.positions.clamp(max=len(table) - 1)
            self._put(op.out, functional.embedding(rows, table))
        else:
            self._put(op.out, embed(self.step.tokens, self.drawn, table))

    def _linear(self, op: Linear) -> None:
        x, keys = self._get(op.x), _keys(op.weights)
        products = self.model.products
        if len(op.weights) == 1:
            weight, bias = self._w(op.weights[0]), self._optional(op.biases[0])
            last = op.out[0] == self.model.head
            self._put(op.out[0], (products.logits if last else products.linear)(x, weight, bias))
        elif keys in self.model.weights.fused:
            whole = products.linear(x, self.model.weights.fused[keys], self.model.biases[keys])
            for out, part in zip(op.out, whole.split([w.shape[0] for w in op.weights], 1), strict=True):
                self._put(out, part)
        else:
            for weight, bias, out in zip(op.weights, op.biases, op.out, strict=True):
                self._put(out, products.linear(x, self._w(weight), self._optional(bias)))

    def _gated_mlp(self, op: GatedMlp) -> None:
        x, keys, products = self._get(op.x), _keys((op.gate, op.up)), self.model.products
        if keys in self.model.weights.fused:
            hidden = products.gated(x, self.model.weights.fused[keys], self.model.biases[keys], op.activation)
        else:
            halves = (products.linear(x, self._w(w), self._optional(b)) for w, b in
                      zip((op.gate, op.up), op.biases[:2], strict=True))  # fmt: skip
            gate, up = halves
            hidden = formulas.activate(gate, op.activation) * up
        self._put(op.out, products.linear(hidden, self._w(op.down), self._optional(op.biases[2])))

    def _rms_norm(self, op: RmsNorm) -> None:
        residual = None if op.residual is None else self._get(op.residual).contiguous()
        out, total = rms_norm(self._get(op.x), residual, self._w(op.weight), op.eps, op.offset, op.groups)
        self._put(op.out, out)
        if op.total is not None and total is not None:
            self._put(op.total, total)

    def _rope_and_store(self, op: RopeAndStore) -> None:
        group = self.step.groups[self.model.memory.group_of(op.layer)]
        k, v = self.model.memory.layer(op.layer)
        table = None if op.rope is None else self.tables[op.rope]
        layout = RopeLayout.HALF if op.rope is None else op.rope.layout
        values = self._get(op.q), self._get(op.k), self._get(op.v)
        self._put(op.out, rope_and_store(*values, table, layout, k, v, group.store_row, group.store_slot))

    def _attention(self, op: Attention) -> None:
        memory, index = self.model.memory, self.model.memory.group_of(op.layer)
        group, q = self.step.groups[index], self._get(op.q).contiguous()
        k, v = memory.layer(op.layer)
        shape = Shape(op.scale, op.softcap, memory.shape.groups[index].window, self._optional(op.sinks))
        pages = Pages(self.step.table, group.starts, memory.positions[index], self.step.page)
        # Rows that only fill a graph up stay as they are; numpy, under Triton's interpreter, would complain of them.
        make = torch.empty if q.device.type == "cuda" else torch.zeros
        out = make((len(q), op.out.width), dtype=q.dtype, device=q.device)
        if self.several:
            prefill_attention(q, k, v, self.step.positions, pages, group.tiles, group.num_tiles, shape, out)
        if self.single:
            shared = SharedItems(group.shared, group.members, group.of_row, group.num_shared)
            work = DecodeItems(group.items, group.single, group.counts, shared if group.shared.shape[1] else None)
            decode_attention(q, k, v, self.step.positions, pages, work, self.model.tickets, shape, out)
        self._put(op.out, out)


def _done(program: Program) -> tuple[tuple[int, ...], ...]:
    """For each instruction the values that are used for the last time there; the logits outlive the step."""
    done: list[list[int]] = [[] for _ in program.instructions]
    for value, index in last_uses(program).items():
        if value != program.logits.id:
            done[index].append(value)
    return tuple(map(tuple, done))


def _keys(weights: tuple[Weight, ...]) -> tuple[int, ...]:
    return tuple(id(weight.tensor) for weight in weights)


def _fused_bias(weights: tuple[Weight, ...], biases: tuple[Weight | None, ...], loaded: DeviceWeights) -> Tensor | None:
    """The biases one after another, zeros where there is none; None where none has any."""
    if len(weights) < 2 or not any(biases):
        return None
    parts = []
    for weight, bias in zip(weights, biases, strict=True):
        like = loaded.each[id(weight.tensor)]
        parts.append(like.new_zeros(len(like)) if bias is None else loaded.each[id(bias.tensor)])
    return torch.cat(parts)
