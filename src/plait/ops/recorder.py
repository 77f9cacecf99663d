"""Records a model: the surface that model code is written against.

Each method appends one instruction of `ops.api`, whose docstring says what it means. Does no arithmetic and knows no
backend.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from plait.ops.api import (
    Activate,
    Activation,
    Add,
    Attention,
    Clamp,
    Embed,
    GatedMlp,
    Instruction,
    KVShape,
    LayerNorm,
    Linear,
    Moe,
    Program,
    RmsNorm,
    Rope,
    RopeAndStore,
    Rows,
    Scale,
    Softcap,
    TakeRows,
    Value,
    Weight,
)


@dataclass
class Ops:
    """Records a model. One instance records one program; `finish` returns it."""

    kv: KVShape
    n_heads: int
    _instructions: list[Instruction] = field(default_factory=list)
    _n_values: int = 0

    def _value(self, width: int, rows: Rows = Rows.TOKENS) -> Value:
        value = Value(self._n_values, width, rows)
        self._n_values += 1
        return value

    def _add(self, instruction: Instruction) -> None:
        self._instructions.append(instruction)

    def embed(self, table: Weight) -> Value:
        out = self._value(table.shape[1])
        self._add(Embed(table, out))
        return out

    def embed_positions(self, table: Weight) -> Value:
        out = self._value(table.shape[1])
        self._add(Embed(table, out, by_position=True))
        return out

    def linear(self, x: Value, weight: Weight, bias: Weight | None = None) -> Value:
        return self.linears(x, (weight,), (bias,))[0]

    def linears(
        self, x: Value, weights: tuple[Weight, ...], biases: tuple[Weight | None, ...] | None = None
    ) -> tuple[Value, ...]:
        for weight in weights:
            assert weight.shape[1] == x.width, f"{weight.name}: {weight.shape} does not fit an input of {x.width}"
        out = tuple(self._value(weight.shape[0], x.rows) for weight in weights)
        self._add(Linear(x, weights, biases or (None,) * len(weights), out))
        return out

    def rms_norm(self, x: Value, weight: Weight, eps: float, *, offset: float = 0.0, groups: int = 1) -> Value:
        out = self._value(x.width, x.rows)
        self._add(RmsNorm(x, None, weight, eps, offset, groups, out, None))
        return out

    def add_rms_norm(
        self, x: Value, residual: Value, weight: Weight, eps: float, *, offset: float = 0.0
    ) -> tuple[Value, Value]:
        """Returns (normed, x + residual)."""
        out, total = self._value(x.width, x.rows), self._value(x.width, x.rows)
        self._add(RmsNorm(x, residual, weight, eps, offset, 1, out, total))
        return out, total

    def layer_norm(self, x: Value, weight: Weight, bias: Weight | None, eps: float, *, groups: int = 1) -> Value:
        out = self._value(x.width, x.rows)
        self._add(LayerNorm(x, weight, bias, eps, out, groups))
        return out

    def rope_and_store(self, q: Value, k: Value, v: Value, *, layer: int, rope: Rope | None) -> Value:
        out = self._value(q.width)
        self._add(RopeAndStore(q, k, v, layer, rope, out))
        return out

    def attention(
        self,
        q: Value,
        *,
        layer: int,
        scale: float,
        softcap: float | None = None,
        sinks: Weight | None = None,
        slopes: tuple[float, ...] | None = None,
    ) -> Value:
        assert slopes is None or len(slopes) == self.n_heads, "a slope for each head"
        out = self._value(self.n_heads * self.kv.v_head_dim)
        self._add(Attention(q, layer, scale, softcap, sinks, out, slopes))
        return out

    def gated_mlp(
        self,
        x: Value,
        gate: Weight,
        up: Weight,
        down: Weight,
        activation: Activation,
        biases: tuple[Weight | None, Weight | None, Weight | None] = (None, None, None),
    ) -> Value:
        out = self._value(down.shape[0], x.rows)
        self._add(GatedMlp(x, gate, up, down, biases, activation, out))
        return out

    def moe(
        self,
        x: Value,
        router: Weight,
        gate: Weight,
        up: Weight,
        down: Weight,
        *,
        top_k: int,
        normalise: bool,
        activation: Activation,
    ) -> Value:
        out = self._value(x.width, x.rows)
        self._add(Moe(x, router, gate, up, down, top_k, normalise, activation, out))
        return out

    def add(self, a: Value, b: Value) -> Value:
        out = self._value(a.width, a.rows)
        self._add(Add(a, b, out))
        return out

    def scale(self, x: Value, factor: float) -> Value:
        out = self._value(x.width, x.rows)
        self._add(Scale(x, factor, out))
        return out

    def softcap(self, x: Value, cap: float) -> Value:
        out = self._value(x.width, x.rows)
        self._add(Softcap(x, cap, out))
        return out

    def clamp(self, x: Value, limit: float) -> Value:
        out = self._value(x.width, x.rows)
        self._add(Clamp(x, limit, out))
        return out

    def activate(self, x: Value, activation: Activation) -> Value:
        out = self._value(x.width, x.rows)
        self._add(Activate(x, activation, out))
        return out

    def take_rows(self, x: Value) -> Value:
        out = self._value(x.width, Rows.OUTPUTS)
        self._add(TakeRows(x, out))
        return out

    def finish(self, logits: Value) -> Program:
        """`logits` must be a value of OUTPUTS rows."""
        assert logits.rows is Rows.OUTPUTS, "logits are computed for the rows that want them: take_rows first"
        return Program(tuple(self._instructions), logits, self.kv, self.n_heads)
