"""Weights on their way to the device: in pieces, by several threads."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from plait.formats.stored import StoredTensor  # noqa: E402 - torch may be missing
from plait.ops.cuda import weights  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("one_torch_thread")]
CPU = torch.device("cpu")
STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def stored(name: str, values: torch.Tensor) -> StoredTensor:
    form = next(form for form, dtype in STORED.items() if dtype == values.dtype)
    raw = values.contiguous().view(torch.uint8).numpy().reshape(-1)
    raw.flags.writeable = False
    return StoredTensor(name, tuple(values.shape), form, raw, Path("a file"))


@pytest.mark.parametrize("dtype", STORED.values())
def test_what_is_stored_arrives_in_the_wanted_type(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Vectors and matrices, shorter than a piece, as long and longer, each type to each; parts of fused matrices."""
    monkeypatch.setattr(weights, "PIECE", 64)
    rng = np.random.default_rng(1)
    shapes = [(1,), (16,), (32,), (33,), (5, 7), (8, 8), (40, 9)]
    values = [torch.tensor(rng.standard_normal(s), dtype=kept) for s in shapes for kept in STORED.values()]
    whole = torch.zeros(sum(v.numel() for v in values), dtype=dtype)
    targets = [part.view(v.shape) for part, v in zip(whole.split([v.numel() for v in values]), values, strict=True)]
    told: list[tuple[int, int]] = []
    pairs = [(t, stored(f"w{i}", v)) for i, (t, v) in enumerate(zip(targets, values, strict=True))]
    weights._fill_all(pairs, CPU, lambda done, total: told.append((done, total)))
    for target, value in zip(targets, values, strict=True):
        assert torch.equal(target, value.to(dtype))
    total = sum(v.numel() * v.itemsize for v in values)
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) == len(values)


def test_what_is_made_may_be_more_than_what_lies_in_the_file() -> None:
    """Integers of four bits become halves: the pieces are as long as the longest tensor in the file."""
    values = torch.randn(300).half()

    class Made:
        name, shape, format, nbytes = "w", (300,), "F16", 150

        def raw(self) -> np.ndarray:
            return values.view(torch.uint8).numpy()

        def raw_rows(self, rows: slice) -> np.ndarray:
            return self.raw()[rows]

    target = torch.zeros(300)
    weights._fill_all([(target, Made())], CPU, None)
    assert torch.equal(target, values.float())


def test_several_are_filled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "usable_cpus", lambda: 2)
    meeting = threading.Barrier(2, timeout=20)

    def fill(filler: weights._Filler, pair: object) -> None:
        meeting.wait()

    monkeypatch.setattr(weights._Filler, "fill", fill)
    weights._fill_all([(torch.zeros(1), stored("w", torch.zeros(1)))] * 4, CPU, None)


def test_what_cannot_be_read_is_raised_and_ends_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "usable_cpus", lambda: 1)
    filled = []

    def fill(filler: weights._Filler, pair: tuple[torch.Tensor, StoredTensor]) -> None:
        filled.append(pair[1].name)
        time.sleep(0.01)
        if len(filled) == 2:
            raise OSError("the disk is gone")

    monkeypatch.setattr(weights._Filler, "fill", fill)
    pairs = [(torch.zeros(1), stored(f"w{i}", torch.zeros(1))) for i in range(200)]
    with pytest.raises(OSError, match="the disk is gone"):
        weights._fill_all(pairs, CPU, None)
    assert len(filled) < 200
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("load")]


def test_a_piece_is_not_filled_anew_while_it_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that copies when it is waited for, and no sooner: what stands in for its streams, events and copies."""
    waiting: list[tuple[Event, torch.Tensor, torch.Tensor]] = []
    most = 0

    class Event:
        def record(self, stream: object) -> None:
            nonlocal most
            assert stream == "a stream"
            target, piece = issued.pop()
            waiting.append((self, target, piece))
            most = max(most, len(waiting))

        def synchronize(self) -> None:
            while any(event is self for event, _, _ in waiting):
                _, target, piece = waiting.pop(0)
                torch.Tensor.copy_(target, piece)

    class Target(torch.Tensor):
        def copy_(self, piece: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
            assert non_blocking
            issued.append((self.as_subclass(torch.Tensor), piece))
            return self

    issued: list[tuple[torch.Tensor, torch.Tensor]] = []
    pinned = []

    def empty(size: int, dtype: torch.dtype, pin_memory: bool = False) -> torch.Tensor:
        pinned.append(pin_memory)
        return torch.zeros(size, dtype=dtype)

    monkeypatch.setattr(weights, "PIECE", 64)
    monkeypatch.setattr(weights, "usable_cpus", lambda: 1)
    monkeypatch.setattr(weights.torch, "empty", empty)
    for name, stand_in in {
        "Stream": lambda device: "a stream", "Event": Event, "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda device: [event.synchronize() for event, _, _ in list(waiting)],
    }.items():  # fmt: skip
        monkeypatch.setattr(weights.torch.cuda, name, stand_in)
    values = [torch.randn(n) for n in (100, 7, 16, 33)]
    targets = [torch.zeros(len(v)) for v in values]
    pairs = [(t.as_subclass(Target), stored("w", v)) for t, v in zip(targets, values, strict=True)]
    weights._fill_all(pairs, torch.device("cuda"), None)
    assert pinned == [True, True]
    assert most == 2
    assert not issued
    for target, value in zip(targets, values, strict=True):
        assert torch.equal(target, value)


def test_where_nothing_can_be_pinned_what_is_not_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty

    def empty(size: int, dtype: torch.dtype, pin_memory: bool = False) -> torch.Tensor:
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return real(size, dtype=dtype)

    monkeypatch.setattr(weights.torch, "empty", empty)
    assert len(weights._host_memory(64, True)) == 64


def test_what_is_stored_as_a_float_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "usable_cpus", lambda: 4)
    meeting = threading.Barrier(4, timeout=20)

    def copy(filler: weights._Filler, target: torch.Tensor, raw: np.ndarray, kept: torch.dtype) -> None:
        meeting.wait()

    monkeypatch.setattr(weights._Filler, "_copy", copy)
    weights._fill_all([(torch.zeros(1), stored("w", torch.zeros(1)))] * 8, CPU, None)


def test_no_more_than_two_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that is not stored as a float is a whole one in the host's memory."""
    monkeypatch.setattr(weights, "usable_cpus", lambda: 8)
    now, most, lock = 0, 0, threading.Lock()

    class Packed:
        name, shape, format, nbytes = "w", (4,), "Q4_0", 16

        def numpy(self) -> np.ndarray:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.005)
            with lock:
                now -= 1
            return np.ones(4, np.float32)

    targets = [torch.zeros(4) for _ in range(20)]
    weights._fill_all([(target, Packed()) for target in targets], CPU, None)
    assert most == 2
    assert all((target == 1).all() for target in targets)
