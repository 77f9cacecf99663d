"""Which values of a program share memory: never two that are alive at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from plait.ops.api import Attention, KVGroup, KVShape, Program, Value
from plait.ops.program import assign_storages, distinct, values_read, values_written
from plait.ops.recorder import Ops
from support.programs import everything
from support.tensors import random_weight

WEIGHTS = {(o, i): random_weight(np.random.default_rng(0), "w", o, i) for o in (3, 5) for i in (3, 5)}


def check(program: Program) -> None:
    """Runs the program on names instead of numbers: whoever reads a value finds it in its storage."""
    storages = assign_storages(program)
    assert set(range(max(storages.values()) + 1)) == set(storages.values())
    held: dict[int, int] = {}
    for op in program.instructions:
        written = {storages[v.id] for v in values_written(op)}
        assert len(written) == len(values_written(op))
        for value in values_read(op):
            assert held[storages[value.id]] == value.id, f"{op} reads a value that was written over"
            assert storages[value.id] not in written, f"{op} writes where it reads"
        held |= {storages[v.id]: v.id for v in values_written(op)}
    assert held[storages[program.logits.id]] == program.logits.id
    assert list(storages.values()).count(storages[program.logits.id]) == 1


@given(st.lists(st.tuples(st.sampled_from(["add", "scale", "linears"]), st.integers(0, 50), st.integers(0, 50))))
def test_random_programs(calls: list[tuple[str, int, int]]) -> None:
    ops = Ops(KVShape(1, 2, 2, (KVGroup((0,)),)), 1)
    values: list[Value] = [ops.embed(WEIGHTS[3, 3])]
    for kind, i, j in calls:
        x = values[i % len(values)]
        if kind == "add":
            same = [v for v in values if v.width == x.width]
            values.append(ops.add(x, same[j % len(same)]))
        elif kind == "scale":
            values.append(ops.scale(x, 2.0))
        else:
            values += ops.linears(x, (WEIGHTS[3, x.width], WEIGHTS[5, x.width]))
    check(ops.finish(ops.take_rows(values[-1])))


def test_a_model_needs_few() -> None:
    program = everything()
    check(program)
    assert len(set(assign_storages(program).values())) <= 8


def test_one_of_each_kind_is_a_program_that_runs() -> None:
    program = everything()
    few = distinct(program)
    check(few)
    assert distinct(few) == few
    assert few.logits == program.logits
    assert {op.layer for op in few.instructions if isinstance(op, Attention)} == {0, 1, 2}


@given(st.integers(3, 6))
def test_like_layers_count_once(n_layers: int) -> None:
    few = distinct(layers(n_layers))
    assert len(few.instructions) == len(distinct(layers(2)).instructions)
    check(few)


def layers(count: int) -> Program:
    ops = Ops(KVShape(1, 2, 2, (KVGroup(tuple(range(count))),)), 1)
    rng = np.random.default_rng(0)
    x = ops.embed(random_weight(rng, "w", 5, 2))
    for layer in range(count):
        normed = ops.rms_norm(x, random_weight(rng, "w", 2), 1e-5)
        q, k, v = ops.linears(normed, tuple(random_weight(rng, "w", 2, 2) for _ in range(3)))
        q = ops.rope_and_store(q, k, v, layer=layer, rope=None)
        x = ops.add(x, ops.attention(q, layer=layer, scale=1.0))
    return ops.finish(ops.linear(ops.take_rows(x), random_weight(rng, "w", 5, 2)))
