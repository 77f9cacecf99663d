"""Damaged files never do worse than one `PlaitError`: no other exception, crash, hang, or unbounded allocation.

Each case takes a small valid file, changes it (bytes, lengths, cuts, splices), opens it, and touches every byte of
every tensor: a range past the end of the map would kill the process.
"""

from __future__ import annotations

import json
import random
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import PlaitError, UnsupportedModelError
from plait.formats.open import open_model
from plait.formats.tensor import ModelSource
from support import model_bytes as mb

# A header of some 500 bytes that claims gigabytes must not get them; dequantised tensors are a few kB.
MOST_BYTES = 4 << 20
MOST_SECONDS = 5.0  # per case, where the usual is a millisecond: a bound against hangs, not a measurement
INTERESTING = (0, 1, 2, 7, 8, 9, 13, 31, 32, 33, 127, 128, 255, 256, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)


def valid_gguf() -> bytes:
    pairs = [
        ("general.architecture", mb.string("llama")),
        ("general.alignment", mb.u32(32)),
        ("yes", struct.pack("<IB", mb.BOOL, 1)),
        ("tokens", mb.array(mb.STRING, 4, b"".join(mb.text(t) for t in ("<s>", "", "Ġa", "b")))),
        ("scores", mb.array(mb.F32_VALUE, 4, struct.pack("<4f", 1, 2, 3, 4))),
        ("flags", mb.array(mb.BOOL, 3, b"\1\0\1")),
    ]
    tensors = [
        mb.tensor("a", (4, 2), 0, 0),
        mb.tensor("b", (32, 2), 8, 32),
        mb.tensor("c", (256,), 12, 128),
        mb.tensor("d", (4,), 26, 288),
    ]
    return mb.gguf(pairs, tensors, random.Random(0).randbytes(304))


def valid_safetensors() -> bytes:
    header = {
        "__metadata__": {"format": "pt"},
        "a": mb.entry("F32", (2, 4), 0, 32),
        "b": mb.entry("BF16", (8,), 32, 48),
        "ids": mb.entry("I64", (2,), 48, 64),
    }
    return mb.safetensors(header, random.Random(0).randbytes(64))


INDEX = {"metadata": {"total_size": 64}, "weight_map": dict.fromkeys(("a", "b", "ids"), "m-1.safetensors")}


def write_gguf(folder: Path, content: bytes) -> Path:
    return mb.write(folder / "m.gguf", content)


def write_single(folder: Path, content: bytes) -> Path:
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text("{}")
    mb.write(folder / "model.safetensors", content)
    return folder


def write_index(folder: Path, content: bytes) -> Path:
    if not (folder / "m-1.safetensors").exists():
        (folder / "m-1.safetensors").write_bytes(valid_safetensors())
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text("{}")
    mb.write(folder / "model.safetensors.index.json", content)
    return folder


KINDS: dict[str, tuple[Callable[[Path, bytes], Path], bytes]] = {
    "gguf": (write_gguf, valid_gguf()),
    "safetensors": (write_single, valid_safetensors()),
    "index": (write_index, json.dumps(INDEX).encode()),
}


def mutate(content: bytes, draw: random.Random) -> bytes:
    """One to four changes: a bit, a byte, a number, a cut, a piece removed, doubled or moved."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        if not data:
            break
        at, end = sorted((draw.randrange(len(data)), draw.randrange(len(data) + 1)))
        change = draw.randrange(8)
        if change == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif change == 1:
            data[at] = draw.randrange(256)
        elif change == 2:
            data[at : at + 8] = struct.pack("<Q", draw.choice(INTERESTING))
        elif change == 3:
            data[at : at + 4] = struct.pack("<I", draw.choice(INTERESTING) & 0xFFFFFFFF)
        elif change == 4:
            del data[at : draw.choice((end, len(data)))]
        elif change == 5:
            data[at:at] = data[at:end]
        elif change == 6:
            there = draw.randrange(len(data))
            data[there : there + end - at] = data[at:end]
        else:
            data[at:at] = draw.randbytes(draw.randint(1, 16))
    return bytes(data)


def use(path: Path) -> str:
    """Open the model and touch all of it. Only `PlaitError` may come out; says which, or 'ok'."""
    try:
        source = open_model(path)
    except PlaitError as error:
        message, kind = str(error), type(error).__name__
    else:
        touch(source)
        return "ok"
    assert "\n" not in message
    assert len(message) < 2000
    return kind


def touch(source: ModelSource) -> None:
    assert all(isinstance(key, str) for key in source.metadata)
    for name, tensor in source.tensors.items():
        assert tensor.name == name
        try:
            raw, values = tensor.raw(), tensor.numpy()
        except UnsupportedModelError:
            continue
        assert raw.size == tensor.nbytes
        assert int(raw.astype(np.uint64).sum()) >= 0
        assert values.shape == tensor.shape
        assert values.dtype == np.float32


def run_cases(kind: str, folder: Path, n: int, seed: int) -> dict[str, int]:
    """`n` mutations; the number of each outcome. Checks time and memory of every case."""
    write, valid = KINDS[kind]
    draw = random.Random(seed)
    outcomes: dict[str, int] = {}
    tracemalloc.start()
    try:
        for case in range(n):
            path = write(folder, mutate(valid, draw))
            tracemalloc.reset_peak()
            before, start = tracemalloc.get_traced_memory()[0], time.monotonic()
            outcome = use(path)
            assert time.monotonic() - start < MOST_SECONDS, f"{kind}: case {case} of seed {seed} hangs"
            taken = tracemalloc.get_traced_memory()[1] - before
            assert taken < MOST_BYTES, f"{kind}: case {case} of seed {seed} took {taken} bytes"
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    finally:
        tracemalloc.stop()
    return outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_the_unchanged_file_is_valid(kind: str, tmp_path: Path) -> None:
    write, valid = KINDS[kind]
    assert use(write(tmp_path, valid)) == "ok"


@pytest.mark.parametrize("kind", KINDS)
def test_mutations(kind: str, tmp_path: Path) -> None:
    outcomes = run_cases(kind, tmp_path, 700, seed=1)
    assert outcomes.get("ModelFileError", 0) > 300, f"the mutations hardly reach the reader: {outcomes}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutations(kind: str, seed: int, tmp_path: Path) -> None:
    run_cases(kind, tmp_path, 10_000, seed)


def _places(valid: bytes) -> Iterator[tuple[int, int]]:
    yield from ((at, number) for at in range(0, len(valid)) for number in INTERESTING[-6:])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_large_numbers_everywhere(kind: str, tmp_path: Path) -> None:
    write, valid = KINDS[kind]
    for at, number in _places(valid):
        use(write(tmp_path, (valid[:at] + struct.pack("<Q", number) + valid[at + 8 :])[: len(valid)]))


@given(data=st.binary(max_size=400))
def test_random_bytes_after_the_magic(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("random")
    use(write_gguf(folder, b"GGUF\3\0\0\0" + data))
    use(write_single(folder, data))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
entries = st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), json_values | st.sampled_from(["F32"]))


@given(header=st.dictionaries(st.text(max_size=4), entries | json_values, max_size=4))
def test_any_json_as_header(header: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("json")
    use(write_single(folder, mb.safetensors(header, b"\0" * 64)))
    (folder / "model.safetensors").unlink()
    use(write_index(folder, json.dumps({"weight_map": header}).encode()))
