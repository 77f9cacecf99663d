"""Products in integers with repacked weights: the bits of their definition in numpy, on every SIMD path, for any rows
and threads; and how near they are to products in float32."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plait.formats.mapped import map_file
from plait.formats.quant import BLOCK_FORMATS
from plait.formats.stored import StoredTensor
from plait.formats.tensor import F32Array, U8Array
from plait.ops.api import Activation, KVConfig, Program, Value, Weight
from plait.ops.cpu import CpuBackend, _native
from plait.ops.recorder import Ops
from plait.ops.reference import ReferenceBackend
from support.integer_products import PARTS, defined_product
from support.programs import rows_program
from support.steps import Chunk, Driver
from support.tensors import HALVES, random_weight, tame, weight

PATHS = CpuBackend.paths()
FORMATS = tuple(PARTS)
CONFIG = KVConfig(4, (60,), "f32")
TOKENS = 40


def packed_weight(seed: int, block_format: str, *shape: int) -> Weight:
    """Random blocks of any bytes, the lowest signed one included."""
    rng, fmt = np.random.default_rng(seed), BLOCK_FORMATS[block_format]
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // fmt.block_values, fmt.block_bytes), dtype=np.uint8)
    for at in HALVES[block_format]:
        blocks[:, at : at + 2] = rng.normal(0, 0.1, (len(blocks), 1)).astype("<f2").view(np.uint8)
    tame(blocks, block_format, rng.normal(0, 0.1, (len(blocks), 1)).astype("<f2"))
    return Weight(StoredBlocks(shape, block_format, blocks.reshape(int(np.prod(shape[:-1])), -1)))


class StoredBlocks:
    """A tensor that lies in memory as its blocks."""

    def __init__(self, shape: tuple[int, ...], block_format: str, data: U8Array) -> None:
        self.name, self.shape, self.format, self._data = "blocks", shape, block_format, data

    @property
    def nbytes(self) -> int:
        return self._data.nbytes

    def raw(self) -> U8Array:
        return self._data

    def numpy(self) -> F32Array:
        values: F32Array = BLOCK_FORMATS[self.format].dequantize(self._data.reshape(-1, self._block_bytes))
        return values.reshape(self.shape)

    @property
    def _block_bytes(self) -> int:
        return BLOCK_FORMATS[self.format].block_bytes


def run(
    build: Callable[[Ops, Value], Value], table: Weight, rows: int, path: str | None = None, threads: int = 2
) -> F32Array:
    executable = CpuBackend(threads, path).compile(rows_program(build, table), CONFIG)
    return np.array(Driver(executable, CONFIG).step({"s": Chunk.every([r % TOKENS for r in range(rows)])})["s"])


def reference(program: Program, rows: int) -> F32Array:
    executable = ReferenceBackend(np.float32, np.float64).compile(program, CONFIG)
    return Driver(executable, CONFIG).step({"s": Chunk.every([r % TOKENS for r in range(rows)])})["s"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("outputs", [1, 21, 32, 100])
@pytest.mark.parametrize("block_format", FORMATS)
def test_products_have_the_bits_of_their_definition(path: str, outputs: int, block_format: str) -> None:
    table = random_weight(np.random.default_rng(1), "table", TOKENS, 512, scale=3)
    matrix = packed_weight(outputs, block_format, outputs, 512)
    want = defined_product(table.tensor.numpy(), matrix)
    for rows in (*range(1, 8), 13, 40):
        got = run(lambda ops, x: ops.linear(x, matrix), table, rows, path)
        np.testing.assert_array_equal(got.view(np.uint32), want[:rows].view(np.uint32))


@pytest.mark.parametrize("path", PATHS)
def test_more_inputs_than_one_task_quantises(path: str) -> None:
    table = random_weight(np.random.default_rng(2), "table", TOKENS, 1312)
    matrix = packed_weight(3, "Q8_0", 40, 1312)
    bias = random_weight(np.random.default_rng(3), "bias", 40)
    want = defined_product(table.tensor.numpy(), matrix) + bias.tensor.numpy()
    for threads in (1, 3):
        for rows in (1, 2, 40):
            got = run(lambda ops, x: ops.linear(x, matrix, bias), table, rows, path, threads)
            np.testing.assert_array_equal(got.view(np.uint32), want[:rows].view(np.uint32))


@pytest.mark.parametrize("path", PATHS)
def test_rows_of_zeroes_of_tiny_and_of_unlike_values(path: str) -> None:
    values = np.random.default_rng(4).standard_normal((TOKENS, 64)).astype(np.float32)
    values[0] = 0
    values[1, 1:] = 0  # one value in a row
    values[2] *= 1e-20
    values[3] *= 1e20
    values[4, 3] = 1e4
    table, matrix = weight("table", values), packed_weight(5, "Q8_0", 7, 64)
    got = run(lambda ops, x: ops.linear(x, matrix), table, TOKENS, path)
    np.testing.assert_array_equal(got, defined_product(values, matrix))
    assert not got[0].any()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none_and_in_its_row(path: str, bad: float) -> None:
    values = np.random.default_rng(6).standard_normal((TOKENS, 64)).astype(np.float32)
    good, matrix = values.copy(), packed_weight(7, "Q4_0", 7, 64)
    values[1, 40] = bad
    got = run(lambda ops, x: ops.linear(x, matrix), weight("table", values), 9, path)
    assert not np.isfinite(got[1]).any()
    others = [0, *range(2, 9)]
    np.testing.assert_array_equal(got[others], defined_product(good, matrix)[others])


@pytest.mark.parametrize("block_format", FORMATS)
def test_rounding_rows_costs_half_a_percent(block_format: str) -> None:
    """Rounding 32 normal values to 127 steps of their largest, about 2.1, adds noise of 2.1 / 127 / sqrt(12), 0.5%; of
    256 values the largest is about 2.9, and the noise 0.7%."""
    table = random_weight(np.random.default_rng(8), "table", TOKENS, 2048)
    matrix = packed_weight(9, block_format, 64, 2048)
    program = rows_program(lambda ops, x: ops.linear(x, matrix), table)
    want = reference(program, TOKENS)
    error = run(lambda ops, x: ops.linear(x, matrix), table, TOKENS) - want
    assert np.linalg.norm(error) < 0.0075 * np.linalg.norm(want)
    assert abs(error.mean()) < 3 * error.std() / np.sqrt(error.size)  # no bias to either side


Shapes = tuple[Callable[[Ops, Value], Value], Weight]


def gated(gate: str, up: str, down: str, ff: int = 96, width: int = 64) -> Shapes:
    """Biases, and every mixture of repacked and other weights."""
    rng = np.random.default_rng(10)
    table = random_weight(rng, "table", TOKENS, width)
    weights = [
        packed_weight(i, fmt, *shape) if fmt in FORMATS else random_weight(rng, "w", *shape, scale=0.3)
        for i, (fmt, shape) in enumerate([(gate, (ff, width)), (up, (ff, width)), (down, (width, ff))])
    ]
    biases = random_weight(rng, "b", ff), None, random_weight(rng, "b", width)
    return lambda ops, x: ops.gated_mlp(x, *weights, Activation.SILU, biases), table


def experts(ff: int, block_format: str) -> Shapes:
    """With 80, an expert's first column begins no tile."""
    rng, width, n = np.random.default_rng(11), 64, 5
    table, router = random_weight(rng, "table", TOKENS, width), random_weight(rng, "router", n, width)
    gate, up = (packed_weight(i, block_format, n, ff, width) for i in (1, 2))
    down = packed_weight(3, block_format, n, width, ff) if ff % 32 == 0 else random_weight(rng, "d", n, width, ff)

    def build(ops: Ops, x: Value) -> Value:
        return ops.moe(x, router, gate, up, down, top_k=2, normalise=True, activation=Activation.GELU)

    return build, table


NETWORKS = {
    "all packed": gated("Q4_0", "Q8_0", "Q8_0"),
    "floats to packed": gated("F32", "Q8_0", "Q4_0"),
    "packed to floats": gated("Q8_0", "Q8_0", "F32"),
    "K formats": gated("Q4_K", "Q5_K", "Q6_K", 512, 256),
    "two and three bits": gated("Q2_K", "Q2_K", "Q3_K", 256, 256),
    "levels of 3 and 2 bits": gated("IQ3_S", "IQ2_XS", "IQ1_M", 256, 256),
    "ternary": gated("TQ1_0", "TQ2_0", "MXFP4", 256, 256),
    "minimums and levels": gated("Q4_1", "Q5_1", "IQ4_XS", 256, 64),
    "experts": experts(96, "Q8_0"),
    "4-bit experts": experts(64, "Q4_0"),
    "experts between tiles": experts(80, "Q8_0"),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_networks_have_the_same_bits_for_any_rows_threads_and_path(network: Shapes) -> None:
    build, table = network
    want = run(build, table, TOKENS, "scalar", 1)
    exact = reference(rows_program(build, table), TOKENS)
    assert np.linalg.norm(want - exact) < 0.02 * np.linalg.norm(exact)
    for path in PATHS:
        for threads in (1, 2, 3):
            for rows in (1, 2, 7, TOKENS):
                got = run(build, table, rows, path, threads)
                np.testing.assert_array_equal(got.view(np.uint32), want[:rows].view(np.uint32))


def test_a_matrix_names_its_kernel() -> None:
    shape = _native.KvShape(1, 1, 2, 2, 4, _native.KvType.F32, [([0], 0, 20)])
    program = _native.Program(PATHS[0], shape, 1)
    formats = {"Q5_1": "int8, repacked", "F16": "float32 as stored", "F32": "float32 as stored"}
    for block_format, kernel in formats.items():
        fmt = BLOCK_FORMATS[block_format]
        data = np.zeros((8, 32 // fmt.block_values * fmt.block_bytes), np.uint8)
        matrix = program.add_matrix(data, block_format, 8, 32)
        x, out = (program.add_value(0, _native.Rows.TOKENS, width) for width in (32, 8))
        program.linear(x, [matrix], [-1], [out])
        assert program.kernel_of(matrix) == kernel
        assert program.packed(matrix) == kernel.startswith("int8")


def test_a_table_that_is_repacked_as_the_output_matrix_still_gives_its_rows() -> None:
    table = packed_weight(12, "Q8_0", TOKENS, 64)
    got = run(lambda ops, x: ops.linear(x, table), table, TOKENS)
    rows = table.tensor.numpy()
    np.testing.assert_array_equal(got, defined_product(rows, table))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's figures")
def test_a_mapped_weight_does_not_stay_in_memory_beside_its_repacked_copy(tmp_path: Path) -> None:
    path, shape = tmp_path / "weight", (4096, 4096)
    path.write_bytes(packed_weight(13, "Q8_0", *shape).tensor.raw().tobytes())
    matrix = Weight(StoredTensor("mapped", shape, "Q8_0", map_file(path).bytes_view(), path))
    table = random_weight(np.random.default_rng(14), "table", TOKENS, shape[1])
    program = rows_program(lambda ops, x: ops.linear(x, matrix), table)
    before = resident_bytes()
    executable = CpuBackend(2).compile(program, CONFIG)
    assert resident_bytes() - before < 1.3 * matrix.tensor.nbytes
    del executable
