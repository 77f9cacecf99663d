"""The values of one step, and the instructions that every way of running a program does alike, by torch's own kernels.

Knows the instructions and weights; knows no KV memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, assert_never

import torch

from plait.ops.api import Activate, Add, Clamp, LayerNorm, Moe, Scale, Softcap, TakeRows, Value, Weight
from plait.ops.cuda import formulas

Tensor: TypeAlias = torch.Tensor


class Values:
    """`weights` by the identity of their tensor; `out_rows` are the step's rows that go on."""

    def __init__(self, weights: Mapping[int, Tensor], out_rows: Tensor) -> None:
        self._weights, self._out_rows = weights, out_rows
        self.values: dict[int, Tensor] = {}

    def execute(self, op: LayerNorm | Moe | Add | Scale | Softcap | Clamp | Activate | TakeRows) -> None:
        match op:
            case LayerNorm():
                weight, shift = self._w(op.weight), self._optional(op.bias)
                self._put(op.out, formulas.layer_norm(self._get(op.x), weight, shift, op.eps, op.groups))
            case Moe():
                experts = self._w(op.gate), self._w(op.up), self._w(op.down)
                x, router = self._get(op.x), self._w(op.router)
                self._put(op.out, formulas.moe(x, router, experts, op.top_k, op.normalise, op.activation))
            case Add():
                self._put(op.out, self._get(op.a) + self._get(op.b))
            case Scale():
                self._put(op.out, self._get(op.x) * op.factor)
            case Softcap():
                self._put(op.out, formulas.softcap(self._get(op.x), op.cap))
            case Clamp():
                self._put(op.out, self._get(op.x).clamp(-op.limit, op.limit))
            case Activate():
                self._put(op.out, formulas.activate(self._get(op.x), op.activation))
            case TakeRows():
                self._put(op.out, self._get(op.x).index_select(0, self._out_rows))
            case _:
                assert_never(op)

    def _get(self, value: Value) -> Tensor:
        return self.values[value.id]

    def _put(self, value: Value, tensor: Tensor) -> None:
        self.values[value.id] = tensor

    def _w(self, weight: Weight) -> Tensor:
        return self._weights[id(weight.tensor)]

    def _optional(self, weight: Weight | None) -> Tensor | None:
        return None if weight is None else self._w(weight)
