"""benchmarks/gpu_lt.py without a GPU: how algorithms are looked for, which are kept, and which are thrown out."""

from __future__ import annotations

import ctypes
import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from plait.ops.cuda.cublaslt import CublasLt  # noqa: E402
from plait.ops.cuda.products import Choices, Products  # noqa: E402
from support.cublaslt import NOT_SUPPORTED, SPLIT, FakeCublasLt, algorithm, attributes  # noqa: E402
from support.triton_interpreter import DEVICE  # noqa: E402 - torch may be missing

pytestmark = [
    pytest.mark.parity,
    pytest.mark.usefixtures("one_torch_thread"),
    pytest.mark.skipif(DEVICE != "cpu", reason="the library of the tests reads the host's memory"),
]
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def lt_search(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("lt_search")


def valley(number: int) -> float | None:
    return None if number % 10 == 3 else abs(number - 42) + 1.0


def beside(number: int) -> Iterator[int]:
    yield from (number - 1, number + 1, number - 4, number + 4)


def test_a_search_walks_down_and_measures_nothing_twice(lt_search: ModuleType) -> None:
    asked: Counter[int] = Counter()

    def measure(number: int) -> float | None:
        asked[number] += 1
        return valley(number)

    found = lt_search.search(measure, int, [30, 10, 30, 63], beside, 10, 20)
    assert found[0] == (1.0, 42)
    assert set(asked.values()) == {1}
    assert [seconds for seconds, _ in found] == sorted(seconds for seconds, _ in found)
    assert {number for _, number in found} == {number for number in asked if number % 10 != 3}
    few = lt_search.search(valley, int, [30, 10], beside, 1, 1)
    assert [number for _, number in few] == [30, 29, 10]
    assert lt_search.search(valley, int, [3, 13], beside, 5, 5) == []


def test_a_hundredth_is_needed(lt_search: ModuleType) -> None:
    assert lt_search.worth_keeping(100.0, 98.9)
    assert not lt_search.worth_keeping(100.0, 99.1)


@pytest.mark.parametrize(
    ("gains", "kept"),
    [
        ({"a": 3.0, "b": 2.0}, "ab"),
        ({"a": 3.0, "b": 0.0, "c": -1.0}, "a"),
        ({"a": -3.0, "b": -1.0}, ""),
        ({"a": 0.05}, ""),
        ({}, ""),
    ],
)
def test_choices_that_do_not_help_the_whole_are_dropped(
    lt_search: ModuleType, gains: dict[str, float], kept: str
) -> None:
    def timed(sets: list[frozenset[str]]) -> list[float]:
        return [100 - sum(gains[key] for key in each) for each in sets]

    assert lt_search.helpful(list(gains), timed) == frozenset(kept)


def test_choices_that_only_hinder_one_another(lt_search: ModuleType) -> None:
    def timed(sets: list[frozenset[str]]) -> list[float]:
        return [100 - 5 * bool(each) + 2 * (len(each) > 1) for each in sets]

    assert len(lt_search.helpful(["a", "b"], timed)) == 1


class Spoilt(FakeCublasLt):
    """Its algorithm 1 is right, 2 adds something, 3 adds something else each time, 4 writes only a part, 5 fails."""

    def _matmul(self, *arguments: Any) -> int:
        (number, *_), (d, layout) = self._number(arguments[12]), arguments[10:12]
        if number == 5:
            return NOT_SUPPORTED
        before = self._matrix(d, layout).clone()
        status = super()._matmul(*arguments)
        y = self._matrix(d, layout)
        if number == 2:
            y[0, 0] += 1
        elif number == 3 and len(self.launched) % 3 == 0:
            y[0, 0] *= 1 + torch.finfo(y.dtype).eps
        elif number == 4:
            y[-1] = before[-1]
        return status

    def _number(self, code: int) -> list[int]:
        return attributes(ctypes.string_at(code, 64))


class Now:
    """In a graph's place: makes the calls again."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def replay(self) -> None:
        for call in self.calls:
            call()


@pytest.fixture
def gpu_lt(monkeypatch: pytest.MonkeyPatch, lt_search: ModuleType) -> ModuleType:
    script = importlib.import_module("gpu_lt")

    def replayed(graphs: list[Now], rounds: int) -> list[float]:
        for graph in graphs:
            graph.replay()
        return [float(2 + n) for n in range(len(graphs))]

    class Stream:
        cuda_stream = 5

    exact = torch.mm
    monkeypatch.setattr(script, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(script, "captured", lambda calls, pool: Now(calls))
    monkeypatch.setattr(script, "replayed", replayed)
    monkeypatch.setattr(torch, "mm", lambda a, b, out_dtype: exact(a.to(out_dtype), b.to(out_dtype)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    return script


def trial(gpu_lt: ModuleType, fake: FakeCublasLt, logits: bool = False) -> Any:
    weights = [torch.randn(48, 32).to(torch.bfloat16) for _ in range(2)]
    now = Products(torch.device("cpu"), Choices())
    workspace = torch.empty(64, dtype=torch.uint8)
    return gpu_lt.Trial(CublasLt(fake), gpu_lt.Matrix("it", weights, False, logits), 20, now, workspace)


@pytest.mark.parametrize("logits", [False, True])
def test_what_is_wrong_or_unsteady_is_thrown_out(gpu_lt: ModuleType, logits: bool) -> None:
    fake = Spoilt()
    fake.ids, fake.caps = (), {}
    fake.offered = [algorithm(number, 1, 1) for number in (2, 3, 4, 5, 1)]
    it = trial(gpu_lt, fake, logits)
    default, best, chosen = it.choose(offered_only=True)
    assert (default, best) == (2 / it._calls, 3 / it._calls)
    assert attributes(bytes(chosen))[0] == 1
    assert it.counts == {"wrong": 2, "unsteady": 1, "failed": 1, "timed": 1}
    assert it.operation.shape == (20, 48, 32, "bf16", "f32" if logits else "bf16")


def test_where_nothing_can_be_used_nothing_is_chosen(gpu_lt: ModuleType) -> None:
    fake = Spoilt()
    fake.ids, fake.caps, fake.offered = (), {}, [algorithm(5, 1, 1)]
    _, best, chosen = trial(gpu_lt, fake).choose(offered_only=False)
    assert (best, chosen) == (float("inf"), None)


def test_more_than_offers_is_tried_unless_told_not_to(gpu_lt: ModuleType) -> None:
    def tried(offered_only: bool) -> set[tuple[int, int]]:
        fake = Spoilt()
        fake.ids, fake.offered, fake.caps = (1, 9), [algorithm(1, 1, 1)], {0: 1, 1: 2, 6: [1]}
        it = trial(gpu_lt, fake)
        it.choose(offered_only)
        configs = [attributes(each["algorithm"]) for each in fake.launched]
        return {(config[0], config[SPLIT]) for config in configs}

    assert tried(True) == {(1, 1)}
    assert tried(False) >= {(1, 1), (1, 2), (1, 8), (9, 1)}
