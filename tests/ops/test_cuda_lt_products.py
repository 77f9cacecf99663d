"""Products by chosen cuBLASLt algorithms: what a file must hold, when they are used and when torch computes; over a
library of the tests, which computes by the descriptors that it is given."""

from __future__ import annotations

import gc
import json
import logging
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from plait.errors import BackendError  # noqa: E402
from plait.ops.api import Activation  # noqa: E402
from plait.ops.cuda import formulas  # noqa: E402
from plait.ops.cuda.cublaslt import (  # noqa: E402
    MOST_WORKSPACE,
    Algorithm,
    CublasLt,
    ProductShape,
    loaded_library,
)
from plait.ops.cuda.lt_products import LtChoices, LtProducts  # noqa: E402
from plait.ops.cuda.products import Choices, Products  # noqa: E402
from support.cublaslt import (  # noqa: E402
    CLUSTER,
    EXECUTION_FAILED,
    REDUCTION,
    SPLIT,
    TILE,
    FakeCublasLt,
    algorithm,
    attributes,
)
from support.triton_interpreter import DEVICE  # noqa: E402 - torch may be missing

pytestmark = [
    pytest.mark.parity,
    pytest.mark.usefixtures("one_torch_thread"),
    pytest.mark.skipif(DEVICE != "cpu", reason="the library of the tests reads the host's memory"),
]
CARD, VERSION = "NVIDIA X1", 120804
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
CODE = algorithm(7, 1, 1)


def whole(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    """Small whole numbers: their products and sums are exact in every type."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, shape, generator=generator).to(dtype)


def products(fake: FakeCublasLt, *choices: tuple[ProductShape, bytes | None]) -> LtProducts:
    workspace = torch.empty(1 << 20, dtype=torch.uint8)
    return LtProducts(CublasLt(fake), LtChoices(dict(choices)), workspace, lambda: 77)


@pytest.mark.parametrize(("inputs", "output"), [("bf16", "bf16"), ("f16", "f16"), ("bf16", "f32")])
def test_a_chosen_product_is_the_product(inputs: str, output: str) -> None:
    fake = FakeCublasLt()
    lt = products(fake, (ProductShape(3, 10, 8, inputs, output), CODE))
    x, w = whole(3, 8, dtype=DTYPES[inputs]), whole(10, 8, dtype=DTYPES[inputs], seed=1)
    got = lt(x, w, DTYPES[output])
    assert got is not None
    assert got.dtype == DTYPES[output]
    assert torch.equal(got.float(), x.float() @ w.float().T)
    assert fake.launched == [{"algorithm": CODE, "size": 1 << 20, "stream": 77}]


def test_without_numbers_nothing_is_launched() -> None:
    fake = FakeCublasLt()
    lt = products(fake, (ProductShape(3, 10, 8, "bf16", "f32"), CODE))
    x, w = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in ((3, 8), (10, 8)))
    got = lt(x, w, torch.float32)
    assert got is not None
    assert (got.shape, got.dtype, got.device.type) == ((3, 10), torch.float32, "meta")
    assert not fake.launched


def test_a_shape_is_looked_up_once() -> None:
    fake = FakeCublasLt()
    lt = products(fake, (ProductShape(4, 10, 8, "bf16", "bf16"), CODE))
    x, w = whole(4, 8), whole(10, 8)
    lt(x, w, torch.bfloat16)
    before = fake.calls.copy()
    for _ in range(5):
        lt(x, w, torch.bfloat16)
    assert fake.calls - before == {"cublasLtMatmul": 5}


def test_the_rows_of_the_next_measurement_unless_it_is_far(caplog: pytest.LogCaptureFixture) -> None:
    def at(rows: int) -> ProductShape:
        return ProductShape(rows, 10, 8, "bf16", "bf16")

    choices = LtChoices({at(4): algorithm(4), at(8): None, at(64): algorithm(64), at(100): algorithm(100)})
    assert choices.of(at(4)) == algorithm(4)
    assert choices.of(at(5)) is choices.of(at(8)) is None  # torch's choice was as good
    assert choices.of(at(51)) is choices.of(at(3)) is None  # what is best for a third more says nothing of these
    assert choices.of(at(52)) == choices.of(at(64)) == algorithm(64)
    assert choices.of(at(79)) is None
    assert choices.of(at(80)) == algorithm(100)
    assert choices.of(at(101)) is choices.of(at(0)) is None
    assert choices.of(at(4)._replace(columns=11)) is choices.of(at(4)._replace(output="f32")) is None


def test_what_is_written_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    choices = LtChoices({ProductShape(4, 10, 8, "bf16", "f32"): CODE, ProductShape(2, 10, 8, "f16", "f16"): None})
    file = tmp_path / "x1.json"
    file.write_text(choices.text(CARD, VERSION))
    assert LtChoices.read(file, CARD, VERSION) == choices
    assert LtChoices.read(file, CARD, VERSION + 1) == LtChoices()
    assert LtChoices.read(file, "NVIDIA X2", VERSION) == LtChoices()
    assert LtChoices.read(tmp_path / "none.json", CARD, VERSION) == LtChoices()
    assert not caplog.records
    file.write_text(LtChoices().text(CARD, VERSION))
    assert LtChoices.read(file, CARD, VERSION) == LtChoices()


GOOD = [4, 10, 8, "bf16", "bf16", CODE.hex()]


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", '{"device": "NVIDIA X1", "cublaslt": 120804}', b"\xff\xfe",
        *({"choices": [GOOD, bad]} for bad in (
            GOOD[:5], [*GOOD, 1], ["many", *GOOD[1:]], [0, *GOOD[1:]], [None, *GOOD[1:]],
            [*GOOD[:3], "int8", *GOOD[4:]], [*GOOD[:3], ["bf16"], *GOOD[4:]], [*GOOD[:5], "00"], [*GOOD[:5], "xy"],
            [*GOOD[:5], 5], 5, None,
        )),
        {"choices": 5}, {"choices": None},
    ],
)  # fmt: skip
def test_a_file_with_anything_else_is_not_used_and_that_is_said_once(
    content: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "x1.json"
    if isinstance(content, dict):
        content = json.dumps({"device": CARD, "cublaslt": VERSION, **content})
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert LtChoices.read(file, CARD, VERSION) == LtChoices()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "x1.json is not used" in record.message


def test_torch_computes_what_was_not_chosen() -> None:
    fake = FakeCublasLt()
    lt = products(fake, (ProductShape(4, 10, 8, "bf16", "bf16"), CODE))
    x, w = whole(4, 8), whole(10, 8)
    assert lt(x, w, torch.float32) is None
    assert lt(whole(4, 9), whole(10, 9), torch.bfloat16) is None
    assert lt(whole(4, 16)[:, :8], w, torch.bfloat16) is None  # rows apart from each other
    assert lt(whole(33)[1:].view(4, 8), w, torch.bfloat16) is None  # begins at a multiple of two bytes
    assert lt(x, whole(8, 10).T, torch.bfloat16) is None
    assert not fake.launched
    assert lt(x, w, torch.bfloat16) is not None


def test_torch_computes_what_the_device_refuses() -> None:
    fake = FakeCublasLt()
    fake.refuses = lambda config, rows: rows < 4
    shape = ProductShape(4, 10, 8, "bf16", "bf16")
    lt = products(fake, (shape, CODE))
    assert lt(whole(3, 8), whole(10, 8), torch.bfloat16) is None
    assert lt(whole(4, 8), whole(10, 8), torch.bfloat16) is not None
    fake.workspace = 1 << 21  # more than there is
    assert products(fake, (shape, CODE))(whole(4, 8), whole(10, 8), torch.bfloat16) is None


def test_a_launch_that_fails_is_told_once_and_left_to_torch(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeCublasLt()
    fake.fail_matmul = EXECUTION_FAILED
    lt = products(fake, (ProductShape(4, 10, 8, "bf16", "bf16"), CODE))
    for _ in range(3):
        assert lt(whole(4, 8), whole(10, 8), torch.bfloat16) is None
    assert fake.calls["cublasLtMatmul"] == 1
    (record,) = caplog.records
    assert "status 13" in record.message


def test_the_backend_asks_first_and_computes_the_rest_as_before() -> None:
    fake = FakeCublasLt()
    shapes = [ProductShape(4, 20, 8, "f16", "f16"), ProductShape(4, 10, 8, "f16", "f32")]
    ours = Products(torch.device("cpu"), Choices(), products(fake, *((shape, CODE) for shape in shapes)))
    plain = Products(torch.device("cpu"), Choices())
    x, w, head = (whole(*shape, dtype=torch.float16) for shape in ((4, 8), (20, 8), (10, 8)))
    bias = whole(20, dtype=torch.float16)
    exact = x.float() @ w.float().T
    assert torch.equal(ours.linear(x, w, None).float(), exact)
    assert torch.equal(ours.logits(x, head, None), x.float() @ head.float().T)
    gated = formulas.activate(exact[:, :10], Activation.SILU) * exact[:, 10:]
    torch.testing.assert_close(ours.gated(x, w, None, Activation.SILU).float(), gated, rtol=2e-3, atol=2e-3)
    assert len(fake.launched) == 3
    assert torch.equal(ours.linear(x, w, bias), plain.linear(x, w, bias))
    assert torch.equal(ours.linear(x[:2], w, None), plain.linear(x[:2], w, None))
    assert len(fake.launched) == 3


def test_descriptors_go_back_to_the_library() -> None:
    fake = FakeCublasLt()
    lt = products(fake, (ProductShape(4, 10, 8, "bf16", "bf16"), CODE))
    lt(whole(4, 8), whole(10, 8), torch.bfloat16)
    assert len(fake.live) == 5  # the handle, the product, three matrices
    del lt
    gc.collect()
    assert not fake.live


def test_a_library_that_refuses_a_handle_is_an_error() -> None:
    fake = FakeCublasLt()
    fake._define("cublasLtCreate", (), lambda: 1)
    with pytest.raises(BackendError, match="cublasLtCreate: status 1"):
        CublasLt(fake)


def test_without_a_file_or_a_library_torch_computes(tmp_path: Path) -> None:
    file = tmp_path / "x1.json"
    assert LtProducts.of_device(torch.device("cpu"), file) is None
    file.write_text(LtChoices({ProductShape(4, 10, 8, "bf16", "bf16"): CODE}).text(CARD, VERSION))
    assert LtProducts.of_device(torch.device("cpu"), file) is None  # torch for CPUs has loaded none


# --- which algorithms there are ---------------------------------------------------------------------------------------


def opened(fake: FakeCublasLt) -> tuple[CublasLt, Any]:
    lt = CublasLt(fake)
    return lt, lt.operation(ProductShape(4, 10, 8, "bf16", "bf16"))


def test_offers_are_asked_for_by_workspace_reduction_and_alignment() -> None:
    fake = FakeCublasLt()
    in_place, rounded, in_floats = (algorithm(7, 1, 2, scheme) for scheme in (1, 4, 2))
    fake.offered = [CODE, in_place, rounded, in_floats, algorithm(8, 1, 1)]
    fake.refuses = lambda config, rows: config[0] == 8
    lt, operation = opened(fake)
    assert [bytes(each) for each in lt.offers(operation, 24)] == [CODE, in_floats]
    assert [bytes(each) for each in lt.offers(operation, 1)] == [CODE]
    assert fake.preferred == {1: MOST_WORKSPACE, 3: 2, 5: 16, 6: 16, 7: 16, 8: 16}
    fake.workspace = MOST_WORKSPACE + 1
    assert lt.offers(operation, 24) == []


def test_neighbours_differ_in_one_thing() -> None:
    fake = FakeCublasLt()
    fake.refuses = lambda config, rows: config[CLUSTER] == 3
    lt, operation = opened(fake)
    start = Algorithm.from_buffer_copy(algorithm(7, 1, 1, 0, 0, 0, 4))
    assert lt.config(start)._asdict() == {
        "id": 7, "tile": 1, "split": 1, "reduction": 0, "swizzle": 0, "custom": 0, "stages": 4, "inner": 0, "cluster": 0
    }  # fmt: skip
    found = [attributes(bytes(each)) for each in lt.neighbours(operation, start)]
    for each in found:
        different = {i for i, (a, b) in enumerate(zip(each, attributes(bytes(start)), strict=True)) if a != b}
        assert different in ({TILE}, {SPLIT, REDUCTION}, {4}, {6}, {CLUSTER})
        assert each[REDUCTION] == (2 if each[SPLIT] > 1 else 0)
    assert {each[TILE] for each in found} == {1, 2, 3}
    assert {each[SPLIT] for each in found} == {1, 2, 3, 4, 6, 8}
    assert {each[CLUSTER] for each in found} == {0, 2, 4, 5, 6, 7, 8, 9}
    assert len({tuple(each) for each in found}) == len(found)


def test_what_cannot_be_added_in_float32_is_not_split() -> None:
    fake = FakeCublasLt()
    fake.caps[1] = 1
    lt, operation = opened(fake)
    found = list(lt.neighbours(operation, Algorithm.from_buffer_copy(CODE)))
    assert {lt.config(each).split for each in found} == {1}


def test_what_needs_more_alignment_is_not_used() -> None:
    fake = FakeCublasLt()
    fake.caps[17] = 32
    lt, operation = opened(fake)
    assert lt.offers(operation, 24) == []
    assert not list(lt.neighbours(operation, Algorithm.from_buffer_copy(CODE)))


def test_algorithms_that_were_not_offered() -> None:
    fake = FakeCublasLt()
    fake.refuses = lambda config, rows: config[TILE] == 3
    lt, operation = opened(fake)
    found = [lt.config(each) for each in lt.others(operation, {7}, 3)]
    assert [(each.id, each.tile, each.stages) for each in found] == [(9, 2, 5), (9, 2, 4), (9, 1, 5)]


def test_the_library_is_the_one_that_the_process_has_loaded(tmp_path: Path) -> None:
    assert loaded_library(tmp_path / "none") is None
    maps = tmp_path / "maps"
    own = Path("/proc/self/maps").read_text()
    maps.write_text(own)
    assert loaded_library(maps) is None
    real = next(line.split()[-1] for line in own.splitlines() if "/libc.so" in line)
    link = tmp_path / "a folder" / "libcublasLt.so.12"
    link.parent.mkdir()
    link.symlink_to(real)
    maps.write_text(f"7f00-7f01 r-xp 00000000 fe:00 123   {link}\n{own}")
    library = loaded_library(maps)
    assert library is not None
    assert library._name == str(link)
