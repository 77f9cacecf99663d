"""The ops protocol: a model is recorded once, then run.

Model code calls the methods of `recorder.Ops` once, at load; each appends one instruction to a `Program` and returns
a `Value` that stands for the array it will produce. Nothing in a call may depend on a number in an array. A backend
compiles the program (`Backend.compile`) to an `Executable`, and a step is one call of `Executable.run`.

Arrays are float32 (or the backend's own compute type) of shape (rows, width). There are two kinds of rows: one for
each token of the step (R), and one for each token that wants logits (L, see `TakeRows`).

This file is the contract only: it does no arithmetic, and does not know which backends exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from plait.formats.tensor import F32Array, LazyTensor
from plait.ops.kv_shape import KV_TYPES as KV_TYPES
from plait.ops.kv_shape import KVConfig as KVConfig
from plait.ops.kv_shape import KVGroup as KVGroup
from plait.ops.kv_shape import KVShape as KVShape
from plait.ops.kv_shape import kv_row_bytes as kv_row_bytes
from plait.ops.sampling import Sampled, SampleRow

I32Array: TypeAlias = npt.NDArray[np.int32]


class Rows(StrEnum):
    TOKENS = "tokens"
    OUTPUTS = "outputs"


@dataclass(frozen=True, slots=True)
class Value:
    """The array that instruction number `id` of the program produces (one of several, for fused instructions)."""

    id: int
    width: int
    rows: Rows


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter of the model. Quantisation is a property of it (`format`), never of the model. A matrix has shape
    (out, in); a vector (n,)."""

    tensor: LazyTensor

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def format(self) -> str:
        return self.tensor.format


class Activation(StrEnum):
    SILU = "silu"
    GELU = "gelu"  # erf
    GELU_TANH = "gelu_tanh"


class RopeLayout(StrEnum):
    """Which elements of a head form a rotated pair. GGUF's llama files are permuted for INTERLEAVED."""

    INTERLEAVED = "interleaved"  # (2i, 2i+1)
    HALF = "half"  # (i, i + dim/2), Hugging Face's


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding of the first 2*len(inv_freq) elements of each head. Angle of pair i at position p is
    p * inv_freq[i], computed in float64 and rounded to float32 after cos and sin; both are multiplied by `scale`
    (YaRN's attention factor, else 1)."""

    layout: RopeLayout
    inv_freq: tuple[float, ...]
    scale: float = 1.0


# --- instructions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Embed:
    """out[r] = table[token[r]]. With `by_position` instead table[p], p being the row's position, or the table's last
    row where that lies beyond it."""

    table: Weight
    out: Value
    by_position: bool = False


@dataclass(frozen=True, slots=True)
class Linear:
    """out[i] = x @ weights[i].T + biases[i]: several matrices over one input, which a backend may fuse."""

    x: Value
    weights: tuple[Weight, ...]
    biases: tuple[Weight | None, ...]
    out: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """out = x / sqrt(mean(x^2) + eps) * (weight + offset). With `residual`: total = x + residual is normed and also
    returned. `groups` > 1 norms each of that many equal parts of the row (per-head norm; weight has width/groups)."""

    x: Value
    residual: Value | None
    weight: Weight
    eps: float
    offset: float
    groups: int
    out: Value
    total: Value | None


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """out = (x - mean) / sqrt(var + eps) * weight + bias; var is the biased one. `groups` > 1 norms each of that many
    equal parts of the row; weight and bias have the width of a part, or of the row (each part has its own)."""

    x: Value
    weight: Weight
    bias: Weight | None
    eps: float
    out: Value
    groups: int = 1


@dataclass(frozen=True, slots=True)
class RopeAndStore:
    """Rotates q and k (when `rope`) by each row's position; writes k, v and the position to the row's KV slots;
    out is the rotated q. Widths: q n_heads*head_dim, k n_kv_heads*head_dim, v n_kv_heads*v_head_dim."""

    q: Value
    k: Value
    v: Value
    layer: int
    rope: Rope | None
    out: Value


@dataclass(frozen=True, slots=True)
class Attention:
    """out[r] = softmax(softcap(scale * q[r] . K)) @ V over the slots of the row's sequence whose stored position is at
    most the row's own, and within the group's window if it has one (row position - key position < window). Reads K
    and V from the pages only, also for tokens of this step. Head h reads KV head h // (n_heads / n_kv_heads).

    The sum is defined as partials (max, sum, output) over blocks of 64 keys by index in the sequence's page table,
    merged in ascending order; a key that is masked takes part in no arithmetic. With `slopes`, one for each head, a
    score grows by slope * (key position - row position) after the cap (ALiBi, arXiv:2108.12409)."""

    q: Value
    layer: int
    scale: float
    softcap: float | None
    sinks: Weight | None
    out: Value
    slopes: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class GatedMlp:
    """out = down @ (act(gate @ x) * (up @ x)), each with an optional bias."""

    x: Value
    gate: Weight
    up: Weight
    down: Weight
    biases: tuple[Weight | None, Weight | None, Weight | None]
    activation: Activation
    out: Value


@dataclass(frozen=True, slots=True)
class Moe:
    """Mixture of experts. router is (n_experts, d); gate and up (n_experts, ff, d), down (n_experts, d, ff).
    p = softmax(router @ x); the `top_k` largest (ties: lower index) are summed in rank order, each weighted by p,
    renormalised over the chosen when `normalise`."""

    x: Value
    router: Weight
    gate: Weight
    up: Weight
    down: Weight
    top_k: int
    normalise: bool
    activation: Activation
    out: Value


@dataclass(frozen=True, slots=True)
class Add:
    a: Value
    b: Value
    out: Value


@dataclass(frozen=True, slots=True)
class Scale:
    x: Value
    factor: float
    out: Value


@dataclass(frozen=True, slots=True)
class Softcap:
    """out = cap * tanh(x / cap)."""

    x: Value
    cap: float
    out: Value


@dataclass(frozen=True, slots=True)
class Clamp:
    """out = min(max(x, -limit), limit)."""

    x: Value
    limit: float
    out: Value


@dataclass(frozen=True, slots=True)
class Activate:
    x: Value
    activation: Activation
    out: Value


@dataclass(frozen=True, slots=True)
class TakeRows:
    """out[l] = x[out_rows[l]]: from R token rows to the L rows that want logits."""

    x: Value
    out: Value


Instruction: TypeAlias = (
    Embed
    | Linear
    | RmsNorm
    | LayerNorm
    | RopeAndStore
    | Attention
    | GatedMlp
    | Moe
    | Add
    | Scale
    | Softcap
    | Clamp
    | Activate
    | TakeRows
)


@dataclass(frozen=True, slots=True)
class Program:
    """A recorded model. `logits` is the last value, (L, vocabulary)."""

    instructions: tuple[Instruction, ...]
    logits: Value
    kv: KVShape
    n_heads: int


# --- one step ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SlotCopy:
    """Copy `count` slots (K, V and position, all layers of the group), source and destination not overlapping."""

    src: int
    dst: int
    count: int


@dataclass(frozen=True, slots=True)
class Reposition:
    """Give slot `slot` the position `position`, rotating its stored K by the difference to its old one."""

    slot: int
    position: int


@dataclass(frozen=True, slots=True)
class KVInputs:
    """One KV group's part of a step. Sequence s of the step owns entries entry_start[s]:entry_start[s+1] of
    `entries`, rows (page, first, count): the sequence's keys in order, those that this step writes included. Row
    store_row[i] of k and v is written to slot store_slot[i]; a row may be stored more than once. `copies`, then
    `repositions`, are done before the first instruction."""

    entry_start: I32Array  # (S + 1,)
    entries: I32Array  # (E, 3)
    store_row: I32Array  # (W,)
    store_slot: I32Array  # (W,)
    copies: Sequence[SlotCopy] = ()
    repositions: Sequence[Reposition] = ()


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One batch of tokens, packed. Rows of one sequence are adjacent, sequences in ascending order: row_seq never
    falls. All int32. `tokens` are in the vocabulary (checked by the caller). The last `hidden_only` of `out_rows` want
    their hidden states and no logits; for each of the others both are there."""

    tokens: I32Array  # (R,)
    positions: I32Array  # (R,)
    row_seq: I32Array  # (R,) in 0..S-1
    out_rows: I32Array  # (L,)
    kv: tuple[KVInputs, ...]  # one for each group
    hidden_only: int = 0


class Executable(Protocol):
    """A compiled program with its weights and KV memory. Not thread-safe: one step at a time."""

    def run(self, step: StepInputs) -> F32Array:
        """Run one step; returns logits, float32, (L - hidden_only, vocabulary), fresh or valid until the next run. A
        step without rows does its edits and nothing else."""
        ...

    def hidden(self) -> F32Array:
        """The hidden states of the last step's output rows, which their logits are made from: after the final norm,
        float32, (L, width), fresh or valid until the next run. Raises BackendError for a program whose logits are no
        product of a row."""
        ...

    def sample(self, logits: F32Array, picks: Sequence[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        """Draw a token for each of `rows`, from row picks[i] of `logits` (what `run` returned); several may draw from
        one row. The meaning is `ops.sampling.sample_picks`."""
        ...

    def read_slots(self, group: int, slots: I32Array) -> bytes:
        """The K, V and positions of these slots, in an order that `write_slots` of an equal KVConfig understands."""
        ...

    def write_slots(self, group: int, slots: I32Array, data: bytes) -> None: ...

    def kv_bytes(self) -> int: ...


Progress: TypeAlias = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while weights are prepared."""


class Backend(Protocol):
    """A kernel library on one device."""

    @property
    def name(self) -> str: ...

    def compile(self, program: Program, kv: KVConfig, progress: Progress | None = None) -> Executable:
        """Prepare weights and KV memory. Raises `BackendError` for what this library cannot run."""
        ...
