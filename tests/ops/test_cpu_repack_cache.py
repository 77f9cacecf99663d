"""Repacked weights kept in a file: the same bits from it, and nothing but a warning when it cannot be used."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait.formats.mapped import map_file
from plait.formats.quant import quantize
from plait.formats.stored import StoredTensor
from plait.formats.tensor import F32Array
from plait.ops.api import Activation, KVConfig, Program, Weight
from plait.ops.cpu import CpuBackend
from plait.ops.recorder import Ops
from support.programs import rows_program
from support.steps import Chunk, Driver

CONFIG = KVConfig(4, (60,), "f32")
TOKENS, WIDTH = 9, 256
SHAPES = {"table": (TOKENS, WIDTH), "gate": (64, WIDTH), "up": (64, WIDTH), "down": (WIDTH, 64), "out": (71, WIDTH)}


def write_model(path: Path, seed: int = 0) -> Program:
    """A table, a gated MLP and a matrix, all in one file of Q8_0 blocks."""
    rng = np.random.default_rng(seed)
    blocks = {name: quantize(rng.normal(0, 1, shape).astype(np.float32), "Q8_0") for name, shape in SHAPES.items()}
    path.write_bytes(b"".join(data.tobytes() for data in blocks.values()))
    mapped, at, weights = map_file(path).bytes_view(), 0, {}
    for name, data in blocks.items():
        weights[name] = Weight(StoredTensor(name, SHAPES[name], "Q8_0", mapped[at : at + data.nbytes], path))
        at += data.nbytes

    def record(ops: Ops, x: object) -> object:
        hidden = ops.gated_mlp(x, weights["gate"], weights["up"], weights["down"], Activation.SILU)  # type: ignore[arg-type]
        return ops.linear(hidden, weights["out"])

    return rows_program(record, weights["table"])  # type: ignore[arg-type]


def logits(program: Program, cache: Path | None) -> F32Array:
    executable = CpuBackend(2, repack_cache=cache).compile(program, CONFIG)
    return Driver(executable, CONFIG).step({"s": Chunk.every(range(TOKENS))})["s"]


@pytest.fixture
def model(tmp_path: Path) -> Program:
    return write_model(tmp_path / "model.bin")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "new" / "cache"


def the_file(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


def test_the_second_start_reads_what_the_first_kept(
    model: Program, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    want = logits(model, None)
    np.testing.assert_array_equal(logits(model, cache), want)
    path = the_file(cache)
    before = path.stat()
    np.testing.assert_array_equal(logits(model, cache), want)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino), "it is not rewritten"
    assert not caplog.records


def test_kept_weights_are_used_instead_of_repacking(model: Program, cache: Path) -> None:
    """The bytes and their sum exchanged together: nothing but reading the file can give these logits."""
    want = logits(model, cache)
    other = write_model(cache.parent.parent / "other.bin", seed=1)
    swapped = logits(other, cache)
    first, second = (p for p in sorted(cache.iterdir()))
    keys = [p.read_bytes().split(b'"key": "')[1][:64] for p in (first, second)]
    assert keys[0] != keys[1]
    data = (second if "model" in first.name else first).read_bytes()
    mine = first if "model" in first.name else second
    mine.write_bytes(with_key(data, keys[0 if mine == first else 1]))
    np.testing.assert_array_equal(logits(model, cache)[:, :2] != want[:, :2], True)
    assert not np.array_equal(swapped, want)


def with_key(data: bytes, key: bytes) -> bytes:
    """A cache file of another model under this key."""
    import struct
    import zlib

    magic, length, _ = struct.unpack_from("<16sQQ", data)
    header = data[32 : 32 + length]
    start = header.index(b'"key": "') + 8
    header = header[:start] + key + header[start + 64 :]
    return struct.pack("<16sQQ", magic, length, zlib.crc32(header)) + header + data[32 + length :]


def test_a_changed_model_is_repacked_anew_without_a_word(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logits(write_model(tmp_path / "model.bin"), cache)
    (tmp_path / "model.bin").unlink()
    changed = write_model(tmp_path / "model.bin", seed=5)
    want = logits(changed, None)
    np.testing.assert_array_equal(logits(changed, cache), want)
    assert len(list(cache.iterdir())) == 1
    np.testing.assert_array_equal(logits(changed, cache), want)
    assert not caplog.records


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_written_anew_with_a_warning(
    model: Program, cache: Path, caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    want = logits(model, cache)
    path = the_file(cache)
    good = path.read_bytes()
    length = int.from_bytes(good[16:24], "little")
    # Everything but the gaps between a header or tensor and the next whole page, which nobody reads.
    last = len(good) - 1
    at = data.draw(st.one_of(st.integers(0, 31 + length), st.integers(last - 5000, last), st.just(4096)))
    kind = data.draw(st.sampled_from(["flip", "cut", "other"]))
    bad = {"flip": good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :], "cut": good[:at], "other": b"PK" * 99}[kind]
    path.write_bytes(bad)
    caplog.clear()
    np.testing.assert_array_equal(logits(model, cache), want)
    assert "anew" in caplog.text
    assert path.read_bytes() == good


def test_a_file_that_names_tensors_elsewhere_is_not_believed(
    model: Program, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import json
    import struct
    import zlib

    want = logits(model, cache)
    path = the_file(cache)
    good = path.read_bytes()
    magic, length, _ = struct.unpack_from("<16sQQ", good)
    header = json.loads(good[32 : 32 + length])
    for place in ([1 << 62, 1 << 62, 1], [-1, 5, 1], [0, 1, -7], "abc", [1 << 80, 0, 0], None, {}):
        text = json.dumps(header | {"tensors": header["tensors"] | {"up": place}}).encode()
        path.write_bytes(struct.pack("<16sQQ", magic, len(text), zlib.crc32(text)) + text + good[32 + length :])
        caplog.clear()
        np.testing.assert_array_equal(logits(model, cache), want)
        assert "anew" in caplog.text
    assert path.read_bytes() == good


def test_a_folder_that_cannot_be_written_is_a_warning(
    model: Program, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    np.testing.assert_array_equal(logits(model, tmp_path / "file"), logits(model, None))
    assert "not kept" in caplog.text


def test_a_full_disk_is_a_warning_and_leaves_nothing(
    model: Program, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    np.testing.assert_array_equal(logits(model, cache), logits(model, None))
    assert "No space left on device" in caplog.text
    assert list(cache.iterdir()) == []


def test_while_another_process_writes_the_file_this_one_does_not(model: Program, cache: Path) -> None:
    want = logits(model, cache)
    path = the_file(cache)
    beside = path.with_name(path.name + ".new")
    path.rename(beside)
    with beside.open("rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        np.testing.assert_array_equal(logits(model, cache), want)
        assert list(cache.iterdir()) == [beside]
    np.testing.assert_array_equal(logits(model, cache), want)
    assert list(cache.iterdir()) == [path], "what a killed process left is used up"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_at_once(model: Program, cache: Path) -> None:
    want = logits(model, None)
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            good = all(np.array_equal(logits(model, cache), want) for _ in range(5))
            os._exit(0 if good else 1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    np.testing.assert_array_equal(logits(model, cache), want)
    assert len(list(cache.iterdir())) == 1


def test_weights_that_do_not_come_from_files_are_not_kept(cache: Path) -> None:
    from support.programs import everything

    CpuBackend(1, repack_cache=cache).compile(everything(), KVConfig(4, (60, 60), "f16"))
    assert not cache.exists()
