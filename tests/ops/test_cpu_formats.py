"""Every block format in the CPU kernels: numpy's bits on every SIMD path, alone and in products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from plait.formats.quant import BLOCK_FORMATS, dequantize
from plait.formats.tensor import F32Array, U8Array
from plait.ops.api import KVConfig, Program, Weight
from plait.ops.cpu import CpuBackend, _native
from support.integer_products import PARTS
from support.programs import rows_program
from support.steps import Chunk, Driver
from support.tensors import FEW_BITS, HALVES, random_weight, tame, weight

PATHS = CpuBackend.paths()


@dataclass(frozen=True, eq=False)
class Blocks:
    """A matrix of random blocks."""

    name: str
    shape: tuple[int, int]
    format: str
    data: U8Array

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def raw(self) -> U8Array:
        return self.data

    def numpy(self) -> F32Array:
        return dequantize(self.data, self.format)


def random_blocks(name: str, rows: int, columns: int) -> Blocks:
    rng, fmt = np.random.default_rng(7), BLOCK_FORMATS[name]
    blocks = rng.integers(0, 256, (rows * columns // fmt.block_values, fmt.block_bytes), dtype=np.uint8)
    for at in HALVES.get(name, ()):
        blocks[:, at : at + 2] = rng.normal(0, 0.1, (len(blocks), 1)).astype("<f2").view(np.uint8)
    tame(blocks, name, rng.normal(0, 0.1, (len(blocks), 1)).astype("<f2"))
    if fmt.block_values == 1:
        blocks[...] = fmt.quantize(rng.standard_normal((rows * columns, 1)).astype(np.float32))
    return Blocks("blocks", (rows, columns), name, blocks.reshape(rows, -1))


def native_floats(path: str, name: str, data: U8Array) -> F32Array:
    fmt = BLOCK_FORMATS[name]
    columns = data.shape[1] // fmt.block_bytes * fmt.block_values
    out = np.empty((len(data), columns), np.float32)
    _native.dequantise(path, data, name, columns, out)
    return out


def test_every_format_that_plait_reads_has_kernels() -> None:
    assert sorted(_native.supported_formats()) == sorted(BLOCK_FORMATS)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", sorted(BLOCK_FORMATS))
def test_dequantised_bits_are_numpys(path: str, name: str) -> None:
    tensor = random_blocks(name, 5, 1024)
    np.testing.assert_array_equal(
        native_floats(path, name, tensor.data).view(np.uint32), tensor.numpy().view(np.uint32)
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_16_bit_float(path: str, name: str) -> None:
    data = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(1, -1)
    np.testing.assert_array_equal(native_floats(path, name, data), dequantize(data, name))  # any NaN equals any NaN


def linear_program(matrix: Weight) -> Program:
    table = random_weight(np.random.default_rng(1), "table", 6, matrix.shape[1])
    return rows_program(lambda ops, x: ops.linear(x, matrix), table)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", sorted(set(BLOCK_FORMATS) - set(PARTS)))  # those: test_cpu_packed.py
def test_products_have_the_bits_of_the_dequantised_matrix(path: str, name: str) -> None:
    """21 columns do not fill a tile, nor do 1, 5 or 18 rows; of those the last find 16-bit columns converted before."""
    config = KVConfig(4, (20,), "f32")
    tensor = random_blocks(name, 21, 512)
    for rows in (1, 5, 18):
        results = []
        for matrix in (Weight(tensor), weight("dense", tensor.numpy())):
            executable = CpuBackend(2, path).compile(linear_program(matrix), config)
            results.append(Driver(executable, config).step({"s": Chunk.every([r % 6 for r in range(rows)])})["s"])
        np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", ["F32", "Q8_0", "Q4_K", *FEW_BITS])
def test_embedding_rows_of_any_format(name: str) -> None:
    config = KVConfig(4, (20,), "f32")
    table = Weight(random_blocks(name, 11, 256))
    executable = CpuBackend(2).compile(rows_program(lambda ops, x: x, table), config)
    got = Driver(executable, config).step({"s": Chunk.every([3, 0, 10])})["s"]
    np.testing.assert_array_equal(got, table.tensor.numpy()[[3, 0, 10]])


def test_unaligned_float32_weights_are_read() -> None:
    rng = np.random.default_rng(2)
    values = rng.standard_normal((4, 16)).astype(np.float32)
    shifted = np.zeros(values.nbytes + 1, np.uint8)[1:].reshape(4, -1)
    shifted[...] = values.view(np.uint8)
    config = KVConfig(4, (20,), "f32")
    table = Weight(Blocks("table", (4, 16), "F32", shifted))
    executable = CpuBackend(1).compile(rows_program(lambda ops, x: ops.linear(x, table), table), config)
    got = Driver(executable, config).step({"s": Chunk.every([0, 1])})["s"]
    np.testing.assert_allclose(got, values[:2] @ values.T, rtol=1e-5, atol=1e-6)
