"""Types of native/bindings.cpp. Everything here takes numbers and arrays; `plait.ops.cpu.record` gives them meaning."""

from collections.abc import Sequence
from enum import Enum

from plait.formats.tensor import F32Array, U8Array
from plait.ops.api import I32Array
from plait.ops.candidates import F64Array, IndexArray
from plait.ops.sampling import U32Array

class Rows(Enum):
    TOKENS = 0
    OUTPUTS = 1
    LOGITS = 2

class KvType(Enum):
    F32 = 0
    F16 = 1
    BF16 = 2
    Q8_0 = 3

class RopeLayout(Enum):
    INTERLEAVED = 0
    HALF = 1

class Activation(Enum):
    SILU = 0
    GELU = 1
    GELU_TANH = 2

class KvShape:
    def __init__(
        self,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        v_head_dim: int,
        page_size: int,
        type: KvType,  # noqa: A002 - C++'s name
        groups: Sequence[tuple[Sequence[int], int, int]],
        /,
    ) -> None: ...

class GroupInputs:
    def __init__(
        self,
        entry_start: I32Array,
        entries: I32Array,
        store_row: I32Array,
        store_slot: I32Array,
        copies: I32Array,
        repositions: I32Array,
    ) -> None: ...

class Program:
    def __init__(self, path: str, shape: KvShape, threads: int, /) -> None: ...
    def add_matrix(self, bytes: U8Array, format: str, rows: int, columns: int, from_file: bool = False) -> int: ...  # noqa: A002
    def packed(self, matrix: int, /) -> bool: ...
    def kernel_of(self, matrix: int, /) -> str: ...
    def plan_only(self) -> None: ...
    @property
    def packed_total(self) -> int: ...
    def packed_bytes(self, matrix: int, /) -> U8Array: ...
    def packed_sum(self, matrix: int, /) -> int: ...
    def offer(self, matrix: int, file: int, offset: int, bytes: int, sum: int, /) -> None: ...  # noqa: A002
    def took_offer(self, matrix: int, /) -> bool: ...
    def add_vector(self, values: F32Array) -> int: ...
    def add_value(self, storage: int, rows: Rows, width: int, /) -> int: ...
    def embed(self, table: int, out: int, by_position: bool, /) -> None: ...
    def linear(self, x: int, weights: Sequence[int], biases: Sequence[int], outs: Sequence[int], /) -> None: ...
    def rms_norm(
        self, x: int, residual: int, weight: int, eps: float, offset: float, groups: int, out: int, total: int, /
    ) -> None: ...
    def layer_norm(self, x: int, weight: int, bias: int, eps: float, groups: int, out: int, /) -> None: ...
    def rope_and_store(
        self,
        q: int,
        k: int,
        v: int,
        layer: int,
        layout: RopeLayout,
        inv_freq: Sequence[float],
        scale: float,
        out: int,
        /,
    ) -> None: ...
    def attention(
        self, q: int, layer: int, scale: float, softcap: float, sinks: int, slopes: Sequence[float], out: int, /
    ) -> None: ...
    def gated_mlp(
        self, x: int, weights: Sequence[int], biases: Sequence[int], activation: Activation, out: int, /
    ) -> None: ...
    def moe(
        self, x: int, weights: Sequence[int], top_k: int, normalise: bool, activation: Activation, out: int, /
    ) -> None: ...
    def add(self, a: int, b: int, out: int, /) -> None: ...
    def scale(self, x: int, factor: float, out: int, /) -> None: ...
    def softcap(self, x: int, cap: float, out: int, /) -> None: ...
    def clamp(self, x: int, limit: float, out: int, /) -> None: ...
    def activate(self, x: int, activation: Activation, out: int, /) -> None: ...
    def take_rows(self, x: int, out: int, /) -> None: ...
    def finish(self, logits: int, hidden: int = -1) -> None: ...
    def run(
        self,
        tokens: I32Array,
        positions: I32Array,
        row_seq: I32Array,
        out_rows: I32Array,
        groups: Sequence[GroupInputs],
        hidden_only: int = 0,
    ) -> F32Array: ...
    def hidden(self) -> F32Array: ...
    def read_slots(self, group: int, slots: I32Array) -> bytes: ...
    def write_slots(self, group: int, slots: I32Array, data: bytes) -> None: ...
    def sample(
        self,
        logits: F32Array,
        records: bytes,
        tokens: IndexArray,
        values: F64Array,
        masks: Sequence[U32Array],
    ) -> tuple[
        list[int],
        list[tuple[int, int, int, int, int]],
        list[tuple[int, list[tuple[int, float]]]],
        list[tuple[int, float]],
    ]: ...
    def measure(self, on: bool, /) -> None: ...
    @property
    def measured(self) -> dict[str, float]: ...
    def set_threads(self, threads: int, /) -> None: ...
    def bind(self, cpus: Sequence[int], strict: bool, /) -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def kv_bytes(self) -> int: ...

PACKED_VERSION: int

def usable_paths() -> list[str]: ...
def supported_formats() -> list[str]: ...
def exponential(path: str, x: F32Array, out: F32Array, /) -> None: ...
def activate(path: str, activation: Activation, x: F32Array, out: F32Array, /) -> None: ...
def softcap(path: str, x: F32Array, cap: float, out: F32Array, /) -> None: ...
def dequantise(path: str, bytes: U8Array, format: str, columns: int, out: F32Array, /) -> None: ...  # noqa: A002
