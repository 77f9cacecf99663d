"""The cuBLASLt that torch has loaded, on the card: every algorithm that could be chosen is right and repeats its bits,
and a captured launch makes those of a plain one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from plait.ops.cuda.cublaslt import (  # noqa: E402
    MOST_WORKSPACE,
    Algorithm,
    CublasLt,
    ProductShape,
    loaded_library,
)
from plait.ops.cuda.lt_products import LtChoices, LtProducts  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
SHAPES = [
    ProductShape(rows, columns, depth, inputs, output)
    for rows, columns, depth in ((1, 1536, 1024), (16, 1024, 4096), (80, 1536, 1024), (300, 4096, 512))
    for inputs, output in (("bf16", "bf16"), ("f16", "f16"), ("bf16", "f32"))
]


@pytest.fixture(scope="module")
def lt(device: str) -> CublasLt:
    if device == "cpu":
        pytest.skip("cuBLASLt has no CPU device")
    library = loaded_library()
    assert library is not None, "torch for CUDA has loaded no libcublasLt.so"
    torch.zeros(1, device=device)  # makes the device current
    return CublasLt(library)


def drawn(shape: ProductShape, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator(device).manual_seed(sum(shape[:3]))
    sizes = ((shape.rows, shape.depth), (shape.columns, shape.depth))
    x, w = (torch.randn(*size, generator=generator, device=device).to(DTYPES[shape.inputs]) for size in sizes)
    return x, w


def check_near(got: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> None:
    """Sums of float32, rounded once."""
    exact = x.double() @ w.double().T
    unit = torch.finfo(got.dtype).eps
    bound = unit * exact.abs() + 1e-4 * exact.std()
    assert bool(((got.double() - exact).abs() <= bound).all())


def one(lt: CublasLt, shape: ProductShape, algorithm: Algorithm, device: str) -> LtProducts:
    workspace = torch.empty(MOST_WORKSPACE, dtype=torch.uint8, device=device)
    choices = LtChoices({shape: bytes(algorithm)})
    return LtProducts(lt, choices, workspace, lambda: int(torch.cuda.current_stream().cuda_stream))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_whatever_could_be_chosen_is_right_and_repeats_its_bits(shape: ProductShape, lt: CublasLt, device: str) -> None:
    operation, (x, w) = lt.operation(shape), drawn(shape, device)
    offered = lt.offers(operation, 24)
    assert offered
    found = {bytes(each): each for each in (*offered, *list(lt.neighbours(operation, offered[0]))[:40])}
    ran = 0
    for algorithm in found.values():
        run = one(lt, shape, algorithm, device)
        first = run(x, w, DTYPES[shape.output])
        if first is None:  # refused at the launch: torch computes
            continue
        ran += 1
        check_near(first, x, w)
        assert all(torch.equal(first, run(x, w, DTYPES[shape.output])) for _ in range(5)), lt.config(algorithm)
    assert ran >= len(offered)


@pytest.mark.parametrize("shape", SHAPES[::4], ids=str)
def test_a_captured_product_is_the_plain_one(shape: ProductShape, lt: CublasLt, device: str) -> None:
    operation, (x, w) = lt.operation(shape), drawn(shape, device)
    for algorithm in lt.offers(operation, 6):
        run, dtype = one(lt, shape, algorithm, device), DTYPES[shape.output]
        want = run(x, w, dtype)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = run(x, w, dtype)
        assert want is not None
        assert got is not None
        got.zero_()
        graph.replay()
        assert torch.equal(got, want)


def test_a_file_is_used_by_its_card_and_version(lt: CublasLt, device: str, tmp_path: Path) -> None:
    shape = SHAPES[0]
    (algorithm, *_) = lt.offers(lt.operation(shape), 1)
    choices, name, file = LtChoices({shape: bytes(algorithm)}), torch.cuda.get_device_name(device), tmp_path / "it.json"

    def found(card: str, version: int) -> Any:
        file.write_text(choices.text(card, version))
        return LtProducts.of_device(torch.device(device), file)

    x, w = drawn(shape, device)
    check_near(found(name, lt.version)(x, w, DTYPES[shape.output]), x, w)
    assert found("another", lt.version) is None
    assert found(name, lt.version + 1) is None
