"""Every defect of a GGUF file is one error that names the file, the tensor or key, and the reason."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from plait.errors import ModelFileError, PlaitError, UnsupportedModelError
from plait.formats.gguf import open_gguf
from support import model_bytes as mb

F32 = struct.pack("<4f", 1, 2, 3, 4)
ONE = [mb.tensor("a", (4,), 0, 0)]


def refusal(path: Path, content: bytes, kind: type[PlaitError] = ModelFileError) -> str:
    mb.write(path, content)
    with pytest.raises(PlaitError) as caught:
        open_gguf(path)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf"


@pytest.mark.parametrize(
    ("content", "looks_like"),
    [
        (b"PK\x03\x04" + b"x" * 60, "a zip archive, as PyTorch"),
        (b"\x80\x02}q\x00", "a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a git-lfs pointer"),
        (b"<!DOCTYPE html>\n<html>", "an HTML page"),
        (b"\n <HTML><body>", "an HTML page"),
        (b"<?xml version='1.0'?><Error/>", "an XML document"),
        (mb.safetensors({"a": mb.entry("F32", (1,), 0, 4)}, b"\0" * 4), "a safetensors file: give the directory"),
        (b'{"model_type": "llama"}', "JSON text"),
        (b"Not found", "a text file"),
        (b"\0" * 100, "zero bytes"),
        (b"tjgg" + b"\1\0\0\0", "a GGJT file"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"\xde\xad\xbe\xef", "binary data that starts with de ad be ef"),
    ],
)
def test_what_it_looks_like(path: Path, content: bytes, looks_like: str) -> None:
    assert refusal(path, content).startswith(f"is not a GGUF file; it looks like {looks_like}")


def test_empty_and_short(path: Path) -> None:
    assert refusal(path, b"").startswith("is empty")
    assert refusal(path, b"GG").startswith("is only 2 bytes long")
    assert "past the end of the file (6 bytes)" in refusal(path, b"GGUF\3\0")


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (1, "is GGUF version 1"),
        (4, "is GGUF version 4; Plait reads versions 2 and 3"),
        (0, "is GGUF version 0"),
        (3 << 24, "is a big-endian GGUF file"),
    ],
)
def test_versions(path: Path, version: int, says: str) -> None:
    assert refusal(path, mb.gguf(version=version), UnsupportedModelError).startswith(says)
    assert "big-endian" in refusal(path, b"FUGG", UnsupportedModelError)


@pytest.mark.parametrize("n", [1, 1000, 2**32, 2**63, 2**64 - 1])
def test_absurd_counts(path: Path, n: int) -> None:
    assert refusal(path, mb.gguf(n_tensors=n)).startswith(f"the header: claims {n} tensors")
    assert refusal(path, mb.gguf(n_pairs=n)).startswith(f"the header: claims {n} key-value pairs")


@pytest.mark.parametrize("n", [20, 2**32, 2**61, 2**64 - 1])
def test_absurd_lengths(path: Path, n: int) -> None:
    long_string = struct.pack("<IQ", mb.STRING, n) + b"abc"
    assert refusal(path, mb.gguf([("k", long_string)])) == (
        f"key 'k': claims {n} bytes of text, more than the 3 bytes left can hold"
    )
    assert f"key 'k': claims {n} strings" in refusal(path, mb.gguf([("k", mb.array(mb.STRING, n, mb.text("abc")))]))
    assert f"key 'k': claims {n} numbers" in refusal(path, mb.gguf([("k", mb.array(mb.F32_VALUE, n, b"\0" * 8))]))
    inner = mb.array(mb.STRING, 2, mb.text("abc") + struct.pack("<Q", n) + b"abc")
    assert refusal(path, mb.gguf([("k", inner)])).startswith("key 'k': string 1 of 2 reaches past the end")
    name = struct.pack("<Q", n) + b"\0" * 6
    assert refusal(path, mb.gguf(n_pairs=1) + name).startswith(f"name of key-value pair 0 of 1: claims {n} bytes")


def test_values(path: Path) -> None:
    assert "key 'k': unknown value type 13" in refusal(path, mb.gguf([("k", struct.pack("<II", 13, 0))]))
    assert "key 'k': unknown value type 99" in refusal(path, mb.gguf([("k", mb.array(99, 1, b"\0" * 8))]))
    assert "neither 0 nor 1" in refusal(path, mb.gguf([("k", struct.pack("<IB", mb.BOOL, 2))]))
    assert "neither 0 nor 1" in refusal(path, mb.gguf([("k", mb.array(mb.BOOL, 2, b"\1\7"))]))
    assert "key 'k': text that is not UTF-8" in refusal(path, mb.gguf([("k", mb.string(b"\xff"))]))
    strings = mb.text("ok") + mb.text(b"\xc3")
    assert "key 'k': string 1 is not UTF-8" in refusal(path, mb.gguf([("k", mb.array(mb.STRING, 2, strings))]))
    nested = mb.array(mb.ARRAY, 1, mb.array(mb.U32, 1, b"\0" * 4))
    assert "nested arrays" in refusal(path, mb.gguf([("k", nested)]), UnsupportedModelError)


def test_names(path: Path) -> None:
    assert refusal(path, mb.gguf([("k", mb.u32(1)), ("k", mb.u32(2))])) == "key 'k': appears twice"
    twice = [mb.tensor("a", (4,), 0, 0), mb.tensor("a", (4,), 0, 32)]
    assert refusal(path, mb.gguf([], twice, b"\0" * 64)) == "tensor 'a': appears twice"
    assert "is 300 characters long" in refusal(path, mb.gguf([("k" * 300, mb.u32(1))]))
    assert r"cannot be printed: 'a\nb'" in refusal(path, mb.gguf([], [mb.tensor("a\nb", (4,), 0, 0)], F32))
    assert "not UTF-8" in refusal(path, mb.gguf([(b"\xff", mb.u32(1))]))


@pytest.mark.parametrize("type_id", [4, 5, 31, 38, 99, 2**32 - 1])
def test_unknown_tensor_type(path: Path, type_id: int) -> None:
    message = refusal(path, mb.gguf([], [mb.tensor("a", (4,), type_id, 0)], F32), UnsupportedModelError)
    assert message.startswith(f"tensor 'a': is of a type that Plait does not know, ggml's number {type_id}; it reads")
    assert "Q4_K" in message
    assert "Q8_1" not in message  # known by size, and not read


@pytest.mark.parametrize(
    ("dims", "type_id", "offset", "says"),
    [
        ((), 0, 0, "has 0 dimensions; 1 to 4 are allowed"),
        ((1, 1, 1, 1, 4), 0, 0, "has 5 dimensions"),
        ((4, 0), 0, 0, "shape (0, 4) has a dimension of 0"),
        ((2**32, 2**32), 0, 0, "more values than any file can hold"),
        ((2**64 - 1,), 0, 0, "more values than any file can hold"),
        ((33, 2), 8, 0, "rows of 33 values are not a multiple of Q8_0's block of 32"),
        ((128,), 12, 0, "rows of 128 values are not a multiple of Q4_K's block of 256"),
        ((4,), 0, 4, "starts at offset 4, which is not a multiple of the alignment 32"),
        ((5,), 0, 0, "but the file has only"),
        ((4,), 0, 32, "but the file has only"),
        ((4,), 0, 2**64 - 32, "but the file has only"),
        ((2**40,), 0, 0, "but the file has only"),
    ],
)
def test_tensor_defects(path: Path, dims: tuple[int, ...], type_id: int, offset: int, says: str) -> None:
    message = refusal(path, mb.gguf([], [mb.tensor("a", dims, type_id, offset)], F32))
    assert message.startswith("tensor 'a': ")
    assert says in message
    with pytest.raises(ModelFileError) as caught:
        open_gguf(path)
    assert caught.value.tensor == "a"


def test_many_dimensions_do_not_loop(path: Path) -> None:
    entry = mb.text("a") + struct.pack("<IQQQ", 2**32 - 1, 1, 1, 1)
    assert f"has {2**32 - 1} dimensions" in refusal(path, mb.gguf([], [entry], F32))


def test_overlap(path: Path) -> None:
    tensors = [mb.tensor("a", (16,), 0, 0), mb.tensor("b", (4,), 0, 32)]
    assert refusal(path, mb.gguf([], tensors, b"\0" * 64)) == "tensor 'b': overlaps tensor 'a'"
    tensors = [mb.tensor("a", (4,), 0, 0), mb.tensor("b", (4,), 0, 0)]
    assert refusal(path, mb.gguf([], tensors, b"\0" * 64)) == "tensor 'b': overlaps tensor 'a'"


@pytest.mark.parametrize("alignment", [0, 3, 33])
def test_alignment(path: Path, alignment: int) -> None:
    message = refusal(path, mb.gguf([("general.alignment", mb.u32(alignment))], ONE, F32))
    assert message == f"key 'general.alignment': {alignment} is not a power of two"


def test_alignment_of_another_type(path: Path) -> None:
    message = refusal(path, mb.gguf([("general.alignment", mb.string("32"))], ONE, F32))
    assert message == "key 'general.alignment': expected a whole number, found str"


def test_every_truncation_is_refused(path: Path) -> None:
    pairs = [("a", mb.u32(1)), ("b", mb.string("text")), ("c", mb.array(mb.STRING, 2, mb.text("x") + mb.text("y")))]
    whole = mb.gguf(pairs, ONE, F32)
    path.write_bytes(whole)
    assert open_gguf(path).tensors["a"].numpy().tolist() == [1, 2, 3, 4]
    for size in range(len(whole)):
        refusal(path, whole[:size])


def test_oversized_header(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plait.formats.gguf_values.MAX_HEADER_BYTES", 1 << 20)
    content = mb.array(mb.STRING, 120_000, mb.text("x") * 120_000)
    assert "reaches beyond 1 MiB, the most a header may take" in refusal(path, mb.gguf([("k", content)]))


def test_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for place in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(ModelFileError, match="is not a regular file"):
            open_gguf(place)


def test_permission_denied(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(mb.gguf([], ONE, F32))

    def denied(*_: object) -> int:  # by hand: root may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(ModelFileError, match=r"m\.gguf: permission denied"):
        open_gguf(path)
