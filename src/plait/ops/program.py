"""What a backend can know about a recorded program before it runs: which values an instruction reads and writes, and
which of them can share memory.

Knows the contract in `ops.api`; does no arithmetic, and knows no backend.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields, replace
from typing import Any, assert_never

from plait.ops.api import (
    Activate,
    Add,
    Attention,
    Clamp,
    Embed,
    GatedMlp,
    Instruction,
    LayerNorm,
    Linear,
    Moe,
    Program,
    RmsNorm,
    RopeAndStore,
    Scale,
    Softcap,
    TakeRows,
    Value,
    Weight,
)


def values_read(op: Instruction) -> tuple[Value, ...]:
    match op:
        case Embed():
            return ()
        case RmsNorm():
            return (op.x,) if op.residual is None else (op.x, op.residual)
        case RopeAndStore():
            return (op.q, op.k, op.v)
        case Attention():
            return (op.q,)
        case Add():
            return (op.a, op.b)
        case Linear() | LayerNorm() | GatedMlp() | Moe():
            return (op.x,)
        case Scale() | Softcap() | Clamp() | Activate() | TakeRows():
            return (op.x,)
        case _:
            assert_never(op)


def values_written(op: Instruction) -> tuple[Value, ...]:
    match op:
        case Linear():
            return op.out
        case RmsNorm():
            return (op.out,) if op.total is None else (op.out, op.total)
        case _:
            return (op.out,)


def hidden_of(program: Program) -> Value | None:
    """The hidden states: what the last product makes the logits from. None if the logits are no product."""
    product = head_of(program)
    return None if product is None else product.x


def head_of(program: Program) -> Linear | None:
    """The product that logits are made with, None if they are made otherwise."""
    product = _head(program)[0]
    return product if isinstance(product, Linear) else None


def head_values(program: Program) -> frozenset[int]:
    """The values that are made from hidden states on the way to the logits: only rows that want logits have them."""
    if hidden_of(program) is None:
        return frozenset()
    return frozenset(value.id for op in _head(program) for value in values_written(op))


def _head(program: Program) -> list[Instruction]:
    """The instructions that make the logits, from the last product on."""
    makers = {value.id: op for op in program.instructions for value in values_written(op)}
    head = [makers[program.logits.id]]
    while isinstance(head[0], Scale | Softcap):
        head.insert(0, makers[head[0].x.id])
    return head


def assign_storages(program: Program) -> dict[int, int]:
    """Value id to storage number, numbered from 0 without gaps in the order of first use.

    Values share a storage only when one has been read for the last time before the instruction that writes the other:
    no instruction writes where it reads. Logits and hidden states share with nothing, so that they outlive the step."""
    last_use = last_uses(program)
    storages: dict[int, int] = {}
    widths: list[int] = []  # the widest value of each storage
    free: list[int] = []
    kept = {program.logits, hidden_of(program)}
    for index, op in enumerate(program.instructions):
        for value in values_written(op):
            storages[value.id] = _take(value.width, widths, [] if value in kept else free)
        done = {value.id for value in (*values_read(op), *values_written(op)) if last_use[value.id] == index}
        done -= {value.id for value in kept if value is not None}
        free += sorted({storages[i] for i in done})
    return storages


def last_uses(program: Program) -> dict[int, int]:
    """Value id to the index of the last instruction that reads or writes it."""
    last: dict[int, int] = {}
    for index, op in enumerate(program.instructions):
        for value in (*values_read(op), *values_written(op)):
            last[value.id] = index
    return last


def _take(width: int, widths: list[int], free: list[int]) -> int:
    """The free storage whose width fits best, or a new one."""
    if not free:
        widths.append(width)
        return len(widths) - 1
    best = min(free, key=lambda s: (widths[s] < width, abs(widths[s] - width)))
    free.remove(best)
    widths[best] = max(widths[best], width)
    return best


def distinct(program: Program) -> Program:
    """The program without those instructions that are like an earlier one but for their numbers: other weights of the
    same shapes, another layer of the same KV group, other values made in the same way. What read their values reads
    the earlier one's. Its logits mean nothing, but running it asks a device for all that the program would."""
    head = head_of(program)
    ends = {program.logits.id, *(() if head is None else [head.out[0].id])}
    groups = {layer: g for g, group in enumerate(program.kv.groups) for layer in group.layers}
    makers: dict[int, Hashable] = {}  # how each value was made
    stands: dict[int, Value] = {}
    kept: dict[Hashable, Instruction] = {}
    for op in program.instructions:
        outs = values_written(op)
        kind = (type(op), tuple(out.id in ends for out in outs), _likeness(op, makers, groups))
        first = kept.setdefault(kind, _reading(op, stands))
        for place, (own, other) in enumerate(zip(outs, values_written(first), strict=True)):
            makers[own.id] = (type(op), place, tuple((out.width, out.rows) for out in outs))
            stands[own.id] = other
    return replace(program, instructions=tuple(kept.values()), logits=stands[program.logits.id])


def _likeness(op: Instruction, makers: Mapping[int, Hashable], groups: Mapping[int, int]) -> Hashable:
    """All of an instruction but its numbers."""

    def of(part: object) -> object:
        match part:
            case Value():
                return makers.get(part.id, (part.width, part.rows))
            case Weight():
                return part.shape, part.format
            case tuple():
                return tuple(of(each) for each in part)
            case _:
                return part

    parts = {field.name: of(getattr(op, field.name)) for field in fields(op)}
    if isinstance(op, RopeAndStore | Attention):
        parts["layer"] = groups[op.layer]
    return tuple(parts.values())


def _reading(op: Instruction, stands: Mapping[int, Value]) -> Instruction:
    """The instruction on the values that stand for those it reads."""
    changes: dict[str, Any] = {}
    for field in fields(op):
        part = getattr(op, field.name)
        if isinstance(part, Value) and part.id in stands:
            changes[field.name] = stands[part.id]
    return replace(op, **changes)


def vocabulary(program: Program) -> int:
    """How many tokens the program's tables know."""
    return min(op.table.shape[0] for op in program.instructions if isinstance(op, Embed) and not op.by_position)


def program_weights(program: Program) -> list[Weight]:
    """Every parameter that the program uses, once, in the order of first use."""
    found: dict[int, Weight] = {}
    for op in program.instructions:
        for weight in weights_read(op):
            found.setdefault(id(weight.tensor), weight)
    return list(found.values())


def weights_read(op: Instruction) -> list[Weight]:
    """The parameters of one instruction."""
    return [weight for weight in _weights_of(op) if weight is not None]


def _weights_of(op: Instruction) -> tuple[Weight | None, ...]:
    match op:
        case Embed():
            return (op.table,)
        case Linear():
            return op.weights + op.biases
        case RmsNorm():
            return (op.weight,)
        case LayerNorm():
            return (op.weight, op.bias)
        case Attention():
            return (op.sinks,)
        case GatedMlp():
            return (op.gate, op.up, op.down, *op.biases)
        case Moe():
            return (op.router, op.gate, op.up, op.down)
        case RopeAndStore() | Add() | Scale() | Softcap() | Clamp() | Activate() | TakeRows():
            return ()
        case _:
            assert_never(op)
