"""Chooses a cuBLASLt algorithm for each product of a shape by measuring, and keeps the choices for the backend.

    PYTHONPATH=src python benchmarks/gpu_lt.py --steps --seconds 200 --out src/plait/ops/cuda/measured/cublaslt

Each product is timed in a captured graph that goes through the weights of six layers, so that the L2 cache holds none
of them, beside what the backend does without a choice (torch, or our kernel of few rows), in turns. An algorithm must
be right within the type's rounding and make the same bits every time. With `--steps`, the four products of a layer are
then timed one after another, with the norms and the activation between them, and a choice stays that makes this
quicker. `--out` is a folder: its file for this card is read, and what was measured now replaces or joins what is there.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from gpu_kernels import matmul_rate, read_rate
from gpu_shapes import SHAPES
from gpu_tune import products_of
from lt_search import helpful, search, worth_keeping

from gpu import header
from plait.errors import BackendError
from plait.garbage import uncollected
from plait.ops.api import Activation
from plait.ops.cuda.cublaslt import MOST_WORKSPACE, Algorithm, CublasLt, Operation, ProductShape, loaded_library
from plait.ops.cuda.graphs import DECODE_ROWS, MIXED_ROWS
from plait.ops.cuda.kernels.gate import gate
from plait.ops.cuda.kernels.norm import rms_norm
from plait.ops.cuda.lt_products import LtChoices, LtProducts
from plait.ops.cuda.products import Choices, Products, file_name

LAYERS = 6
FIRST_ROWS = (128, 256, 512, 64, 2048, 32, 16, 1, 4096, 8192)
"""Where the most is to be gained, or the most steps are."""
MANY_ROWS = 512
"""Beyond, each algorithm costs much time to measure, and fewer are."""
MOST_HEAD_ROWS = 512
"""Steps make logits of no more rows."""
OFFERS, NEAR, OTHERS = 24, 40, 1
GRAPH_SECONDS = 2e-3
DEVICE = torch.device("cuda")


@dataclass(frozen=True)
class Matrix:
    """A weight of each layer: `name` of a product, (columns, depth) tensors; how the product ends."""

    name: str
    weights: list[torch.Tensor]
    gated: bool
    logits: bool

    @property
    def output(self) -> str:
        return "f32" if self.logits else "bf16"

    def shape(self, rows: int) -> ProductShape:
        return ProductShape(rows, *self.weights[0].shape, "bf16", self.output)

    def default(self, products: Products, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if self.gated:
            return products.gated(x, w, None, Activation.SILU)
        return (products.logits if self.logits else products.linear)(x, w, None)


def matrices(config: dict[str, object]) -> list[Matrix]:
    made = []
    for name, (columns, depth, gated) in zip(
        ("gate-up", "down", "qkv", "out", "head"), products_of(config), strict=True
    ):
        head = name == "head"
        shape = (2 * columns if gated else columns, depth)
        weights = [(torch.randn(shape, device=DEVICE, dtype=torch.bfloat16) * depth**-0.5)
                   for _ in range(2 if head else LAYERS)]  # fmt: skip
        made.append(Matrix(name, weights, gated, head))
    return made


@cache
def capture_stream() -> torch.cuda.Stream:
    """One for all: torch keeps a workspace for each stream that it multiplies on."""
    return torch.cuda.Stream()


def captured(calls: Sequence[Callable[[], object]], pool: object) -> torch.cuda.CUDAGraph:
    """Not by torch.cuda.graph, which collects garbage and empties its cache each time."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with uncollected(), torch.cuda.stream(capture_stream()):
        graph.capture_begin(pool=pool)
        try:
            for call in calls:
                call()
        finally:
            graph.capture_end()
    return graph


def replayed(graphs: Sequence[torch.cuda.CUDAGraph], rounds: int) -> list[float]:
    """Seconds of each graph, the median of replays in turns; the device never waits for the host between them."""
    events = [[[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in graphs] for _ in range(rounds + 1)]
    for turn in events:
        for graph, (begin, end) in zip(graphs, turn, strict=True):
            begin.record()
            graph.replay()
            end.record()
    torch.cuda.synchronize()
    times = torch.tensor([[begin.elapsed_time(end) / 1e3 for begin, end in turn] for turn in events[1:]])
    return times.median(0).values.tolist()


class Trial:
    """One product with `rows` rows: what the backend does now, and algorithms beside it."""

    def __init__(self, lt: CublasLt, matrix: Matrix, rows: int, now: Products, workspace: torch.Tensor) -> None:
        self._lt, self._matrix, self._workspace = lt, matrix, workspace
        self.operation: Operation = lt.operation(matrix.shape(rows))
        self._x = torch.randn(rows, matrix.weights[0].shape[1], device=DEVICE, dtype=torch.bfloat16)
        dtype = torch.float32 if matrix.logits else torch.bfloat16
        self._y = torch.empty(rows, len(matrix.weights[0]), device=DEVICE, dtype=dtype)
        self._exact = torch.mm(self._x, matrix.weights[0].t(), out_dtype=torch.float32)
        self._bound = self._exact.abs() * (torch.finfo(dtype).eps / 2) + 1e-3 * self._exact.std()
        self.counts: Counter[str] = Counter()
        self._calls = len(matrix.weights)
        self._pool = torch.cuda.graph_pool_handle()
        default = self._default(now)
        (seconds,) = replayed([default], 3)
        self._calls = min(12, max(2, round(GRAPH_SECONDS * self._calls / seconds)))
        self.default = self._default(now)

    def _default(self, now: Products) -> torch.cuda.CUDAGraph:
        self._matrix.default(now, self._x, self._matrix.weights[0])
        return self._captured(lambda w: self._matrix.default(now, self._x, w))

    def _captured(self, call: Callable[[torch.Tensor], object]) -> torch.cuda.CUDAGraph:
        weights = [self._matrix.weights[i % len(self._matrix.weights)] for i in range(self._calls)]
        return captured([lambda w=w: call(w) for w in weights], self._pool)

    def _launch(self, algorithm: Algorithm, w: torch.Tensor) -> None:
        self._lt.matmul(self.operation, algorithm, self._x.data_ptr(), w.data_ptr(), self._y.data_ptr(),
                        self._workspace.data_ptr(), len(self._workspace),
                        torch.cuda.current_stream().cuda_stream)  # fmt: skip
        if self._matrix.gated:
            gate(self._y, Activation.SILU)

    def graph(self, algorithm: Algorithm) -> torch.cuda.CUDAGraph:
        return self._captured(lambda w: self._launch(algorithm, w))

    def measure(self, algorithm: Algorithm) -> float | None:
        """Seconds of one product, roughly; None for one that fails, is wrong, or makes other bits another time."""
        trouble = self._trouble(algorithm, 3)
        self.counts[trouble or "timed"] += 1
        return None if trouble else replayed([self.graph(algorithm)], 4)[0] / self._calls

    def _trouble(self, algorithm: Algorithm, repeats: int) -> str:
        w = self._matrix.weights[0]
        try:
            self._y.fill_(float("nan"))
            self._launch(algorithm, w)
            torch.cuda.synchronize()
        except BackendError:
            return "failed"
        if not bool(((self._y.float() - self._exact).abs() <= self._bound).all()):
            return "wrong"
        first = self._y.clone()
        for _ in range(repeats):
            self._y.fill_(float("nan"))
            self._launch(algorithm, w)
            if not torch.equal(self._y, first):
                return "unsteady"
        return ""

    def choose(self, offered_only: bool) -> tuple[float, float, Algorithm | None]:
        """Seconds of the default and of the best, in turns; the best, if there is any."""
        many = self.operation.shape.rows > MANY_ROWS
        rounds = 0 if offered_only else 1 if many else 3
        found = search(self.measure, bytes, self._start(offered_only or many),
                       lambda near: self._lt.neighbours(self.operation, near), NEAR, rounds)  # fmt: skip
        best = [algorithm for _, algorithm in found[:3] if not self._trouble(algorithm, 20)]
        graphs = [self.default, *(self.graph(algorithm) for algorithm in best)]
        default, *times = (seconds / self._calls for seconds in replayed(graphs, 15))
        seconds, index = min((seconds, i) for i, seconds in enumerate([*times, float("inf")]))
        return default, seconds, best[index] if best else None

    def _start(self, offered_only: bool) -> Iterator[Algorithm]:
        offers = self._lt.offers(self.operation, OFFERS)
        yield from offers
        if not offered_only:
            known = {self._lt.config(each).id for each in offers}
            yield from islice(self._lt.others(self.operation, known, OTHERS), NEAR)


class Chain:
    """The products of LAYERS layers one after another, as a step makes them, without attention."""

    def __init__(
        self, lt: CublasLt, found: Sequence[Matrix], rows: int, tilings: Choices, workspace: torch.Tensor
    ) -> None:
        self._lt, self._tilings, self._workspace = lt, tilings, workspace
        self._weights = {matrix.name: matrix.weights for matrix in found}
        width = len(self._weights["out"][0])
        self._x, self._residual = (torch.randn(rows, width, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
        self._ones = torch.ones(width, device=DEVICE)

    def run(self, products: Products) -> torch.Tensor:
        x, total = self._x, self._residual
        for qkv, out, both, down in zip(
            *(self._weights[name] for name in ("qkv", "out", "gate-up", "down")), strict=True
        ):
            normed, total = rms_norm(x, total, self._ones, 1e-5, 0.0, 1)
            heads = products.linear(normed, qkv, None)[:, : out.shape[1]].contiguous()
            normed, total = rms_norm(products.linear(heads, out, None), total, self._ones, 1e-5, 0.0, 1)
            x = products.linear(products.gated(normed, both, None, Activation.SILU), down, None)
        return x

    def timed(self, sets: Sequence[dict[ProductShape, bytes | None]], rounds: int = 15) -> list[float]:
        """Seconds of the chain with each of some sets of choices."""
        pool = torch.cuda.graph_pool_handle()
        # They hold memory that the graphs use.
        each = [Products(DEVICE, self._tilings, self._over(LtChoices(choices))) for choices in sets]
        for products in each:
            self.run(products)
        return replayed([captured([lambda products=products: self.run(products)], pool) for products in each], rounds)

    def _over(self, choices: LtChoices) -> LtProducts:
        return LtProducts(self._lt, choices, self._workspace, lambda: int(torch.cuda.current_stream().cuda_stream))


def keep_helpful(chain: Chain, chosen: dict[ProductShape, bytes | None], rows: int) -> dict[ProductShape, bytes | None]:
    """`chosen` for one number of rows, without those that do not help the chain."""

    def timed(sets: list[frozenset[ProductShape]]) -> list[float]:
        return chain.timed([{key: chosen[key] for key in each} for each in sets])

    ours = [key for key, algorithm in chosen.items() if algorithm is not None and key.output != "f32"]
    kept = helpful(ours, timed)
    none, some = (seconds / LAYERS * 1e6 for seconds in timed([frozenset(), kept]))
    print(f"{rows:5} rows, a layer's products together: default {none:.1f} us, with choices {some:.1f}; "
          f"{len(kept)} of {len(ours)} choices help", flush=True)  # fmt: skip
    return {key: None if key in ours and key not in kept else algorithm for key, algorithm in chosen.items()}


@dataclass(frozen=True)
class Card:
    """What all measurements share."""

    lt: CublasLt
    tilings: Choices
    workspace: torch.Tensor
    read_rate: float
    matmul_rate: float

    def floor(self, shape: ProductShape) -> float:
        """Seconds to read the weights, or to multiply, at the rates measured."""
        weights = shape.columns * shape.depth
        return 2 * max(weights / self.read_rate, shape.rows * weights / self.matmul_rate)


def measured(
    card: Card, found: Sequence[Matrix], rows: int, offered: bool, steps: bool
) -> dict[ProductShape, bytes | None]:
    """The choices for one number of rows."""
    chosen: dict[ProductShape, bytes | None] = {}
    now = Products(DEVICE, card.tilings)
    for matrix in found:
        if matrix.logits and rows > MOST_HEAD_ROWS:
            continue
        shape, trial = matrix.shape(rows), Trial(card.lt, matrix, rows, now, card.workspace)
        default, best, algorithm = trial.choose(offered)
        kept = algorithm is not None and worth_keeping(default, best)
        chosen[shape] = bytes(algorithm) if algorithm is not None and kept else None
        config = "" if algorithm is None else tuple(card.lt.config(algorithm))
        print(f"{rows:5} rows {matrix.name:8} default {default * 1e6:7.1f} us, best {best * 1e6:7.1f}, "
              f"floor {card.floor(shape) * 1e6:7.1f}; {'kept' if kept else 'refused'} {config} {dict(trial.counts)}",
              flush=True)  # fmt: skip
    return keep_helpful(Chain(card.lt, found, rows, card.tilings, card.workspace), chosen, rows) if steps else chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-3.1-8b")
    parser.add_argument("--rows", help="numbers of rows, with commas between; else those of the captured steps")
    parser.add_argument("--offered", action="store_true", help="only what the library offers, nothing near it")
    parser.add_argument("--steps", action="store_true", help="drop what does not help a layer's products together")
    parser.add_argument("--seconds", type=float, default=200, help="no further number of rows is begun after these")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    begin = time.perf_counter()
    later = [rows for rows in sorted({*DECODE_ROWS, *MIXED_ROWS}) if rows not in FIRST_ROWS]
    counts = [int(rows) for rows in args.rows.split(",")] if args.rows else [*FIRST_ROWS, *later]
    library = loaded_library()
    if library is None:
        raise SystemExit("torch has loaded no cuBLASLt")
    name = torch.cuda.get_device_name()
    card = Card(CublasLt(library), Choices.of_device(name),
                torch.empty(MOST_WORKSPACE, dtype=torch.uint8, device=DEVICE), read_rate(), matmul_rate())  # fmt: skip
    print(f"{header()}, cuBLASLt {card.lt.version}: read {card.read_rate / 1e12:.2f} TB/s, "
          f"matmul {card.matmul_rate / 1e12:.0f} TFLOP/s", flush=True)  # fmt: skip
    found = matrices(SHAPES[args.shape])
    file = None if args.out is None else args.out / f"{file_name(name)}.json"
    table = {} if file is None else dict(LtChoices.read(file, name, card.lt.version).measured)
    for at, rows in enumerate(counts):
        if time.perf_counter() - begin > args.seconds:
            print(f"not measured: {','.join(map(str, counts[at:]))} rows", flush=True)
            break
        table |= measured(card, found, rows, args.offered, args.steps)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(LtChoices(table).text(name, card.lt.version))
        torch.cuda.empty_cache()
    print(f"{sum(each is not None for each in table.values())} choices of {len(table)}; "
          f"{time.perf_counter() - begin:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
