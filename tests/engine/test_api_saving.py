"""A sequence saved to a file goes on elsewhere with the same bits; a file that does not fit is refused by name."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.api import Batch, Context, DecodeStatus, Model
from plait.engine.fingerprint import Fingerprint, fingerprint
from plait.engine.kvfile import SavedKV, read_kv, write_kv
from plait.errors import KVFileError, OutOfPagesError, RequestError
from plait.ops.api import RopeAndStore
from support.models import tiny_model

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def context(model: Model, **changes: object) -> Context:
    asked = {"n_ctx": 64, "n_seq_max": 3, "threads": 1, "page_size": 4, "device": "cpu"} | changes
    return Context(model, **asked)  # type: ignore[arg-type]


def run(ctx: Context, tokens: list[int], seq: int, start: int | None = None) -> np.ndarray:
    batch = Batch()
    first = ctx.memory.seq_pos_max(seq) + 1 if start is None else start
    for i, token in enumerate(tokens):
        batch.add(token, first + i, [seq], logits=True)
    assert ctx.decode(batch) == DecodeStatus.DONE, ctx.last_error
    return np.stack([ctx.logits(i) for i in range(len(tokens))])


def edit(ctx: Context, how: str) -> None:
    """Sequence 0 is edited, with the edits still to be done."""
    run(ctx, PROMPT, 0)
    if how == "shift":
        ctx.memory.seq_rm(0, 2, 5)
        ctx.memory.seq_add(0, 5, -1, -3)
    elif how == "hole":
        ctx.memory.seq_rm(0, 3, 6)
    elif how == "shared and shifted":
        ctx.memory.seq_cp(0, 1)
        ctx.memory.seq_add(0, 6, -1, 7)
        ctx.memory.seq_rm(1, -1, -1)
    elif how == "divided":
        ctx.memory.seq_div(0, 0, -1, 2)
    else:
        assert how == "plain"


@pytest.mark.parametrize("how", ["plain", "shift", "hole", "shared and shifted", "divided"])
@pytest.mark.parametrize("kv_type", ["f16", "f32", "q8_0"])
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_a_restored_sequence_goes_on_with_the_same_bits(tmp_path: Path, how: str, kv_type: str, device: str) -> None:
    model = tiny_model(head_dim=32) if kv_type == "q8_0" else tiny_model()
    first = context(model, kv_type=kv_type, device=device)
    edit(first, how)
    assert first.save_sequence(0, tmp_path / "kv") == (tmp_path / "kv").stat().st_size
    second = context(model, kv_type=kv_type, device=device, page_size=8, n_seq_max=2)
    run(second, [7] * 5, 1)
    saved = saved_in(second, tmp_path / "kv")
    assert second.load_sequence(tmp_path / "kv", 0) == len(saved.tokens) == len(saved.positions)
    assert (second.memory.seq_pos_min(0), second.memory.seq_pos_max(0)) == (min(saved.positions), max(saved.positions))
    assert first.memory.seq_pos_max(0) == max(saved.positions)
    np.testing.assert_array_equal(run(second, [8, 9, 7], 0), run(first, [8, 9, 7], 0))
    first.check()
    second.check()


def saved_in(ctx: Context, path: Path) -> SavedKV:
    return read_kv(path, mark(ctx.model, ctx._kv_type, ctx._backend))


def mark(model: Model, kv_type: str = "f16", backend: str = "cpu") -> Fingerprint:
    return fingerprint(model.loaded, kv_type, backend)


def test_tokens_and_positions_are_those_of_the_edited_sequence(model: Model, tmp_path: Path) -> None:
    ctx = context(model)
    run(ctx, PROMPT, 0)
    ctx.memory.seq_rm(0, 2, 5)
    ctx.memory.seq_add(0, 5, -1, -3)
    run(ctx, [7, 8], 0)
    ctx.save_sequence(0, tmp_path / "kv")
    saved = saved_in(ctx, tmp_path / "kv")
    assert saved.tokens == (*PROMPT[:2], *PROMPT[5:], 7, 8)
    assert saved.positions == tuple(range(len(PROMPT) - 3 + 2))
    ctx.memory.seq_cp(0, 1, 0, 3)
    run(ctx, [9], 1)  # copies the ragged page it shares
    ctx.save_sequence(1, tmp_path / "kv")
    assert saved_in(ctx, tmp_path / "kv").tokens == (*PROMPT[:2], PROMPT[5], 9)


def test_loading_replaces_what_the_sequence_held_and_leaves_the_others(model: Model, tmp_path: Path) -> None:
    ctx = context(model)
    run(ctx, PROMPT, 0)
    ctx.memory.seq_cp(0, 1)
    ctx.memory.seq_add(1, 4, -1, 2)  # waits for the next step, which must not undo what is loaded
    ctx.save_sequence(0, tmp_path / "kv")
    run(ctx, [7, 7, 7], 0)
    ctx.memory.seq_rm(2)
    assert ctx.load_sequence(tmp_path / "kv", 0) == len(PROMPT)
    other = context(model)
    run(other, PROMPT, 0)
    np.testing.assert_array_equal(run(ctx, [8], 0), run(other, [8], 0))
    other.memory.seq_rm(0, len(PROMPT), -1)
    other.memory.seq_add(0, 4, -1, 2)
    np.testing.assert_array_equal(run(ctx, [8], 1), run(other, [8], 0))
    ctx.check()


def test_what_cannot_be_saved_or_loaded_is_refused(model: Model, tmp_path: Path) -> None:
    ctx = context(model)
    with pytest.raises(RequestError, match="sequence 0 is empty"):
        ctx.save_sequence(0, tmp_path / "kv")
    with pytest.raises(RequestError, match=r"sequence 3 is not one of 0\.\.2"):
        ctx.save_sequence(3, tmp_path / "kv")
    run(ctx, PROMPT, 0)
    with pytest.raises(RequestError, match="cannot be written: No such file"):
        ctx.save_sequence(0, tmp_path / "none" / "kv")
    with pytest.raises(RequestError, match="sequence -1 is not one of"):
        ctx.load_sequence(tmp_path / "kv", -1)
    with pytest.raises(KVFileError, match="cannot be read: No such file"):
        ctx.load_sequence(tmp_path / "kv", 0)
    ctx.save_sequence(0, tmp_path / "kv")
    with pytest.raises(KVFileError, match="reaches position 10; the context has 8"):
        context(model, n_ctx=8).load_sequence(tmp_path / "kv", 0)
    small = context(model, kv_tokens=8, n_seq_max=2)
    run(small, [7, 8, 7, 8, 7], 1)
    with pytest.raises(OutOfPagesError, match="there is no room for its 11 tokens"):
        small.load_sequence(tmp_path / "kv", 1)
    assert small.memory.seq_pos_max(1) == 4
    small.check()


def test_a_file_of_another_model_type_or_library_is_refused_by_name(model: Model, tmp_path: Path) -> None:
    ctx = context(model)
    run(ctx, PROMPT, 0)
    ctx.save_sequence(0, tmp_path / "kv")
    for changes, why in (({"kv_type": "f32"}, "another KV type"), ({"device": "reference"}, "another kernel library")):
        with pytest.raises(KVFileError, match=why):
            context(model, **changes).load_sequence(tmp_path / "kv", 0)
    with pytest.raises(KVFileError, match="another model"):
        context(tiny_model(ff=32)).load_sequence(tmp_path / "kv", 0)
    theirs = replace(mark(model), tokenizer="x", adapter="y")
    write_kv(tmp_path / "kv", theirs, SavedKV((1,), (0,), (b"",)))
    with pytest.raises(KVFileError, match="another tokenizer and another adapter"):
        ctx.load_sequence(tmp_path / "kv", 0)
    write_kv(tmp_path / "kv", mark(model), SavedKV((1,), (0,), (b"123",)))
    with pytest.raises(KVFileError, match="other numbers of bytes"):
        ctx.load_sequence(tmp_path / "kv", 1)
    assert ctx.memory.seq_pos_max(1) == -1
    ctx.check()


def test_the_fingerprint_sees_rope_and_weights_and_nothing_else(model: Model) -> None:
    ours = mark(model)
    assert ours == mark(tiny_model())
    assert mark(tiny_model(ff=32)).differences(ours) == ["model"]
    instructions = tuple(
        replace(op, rope=replace(op.rope, scale=2.0)) if isinstance(op, RopeAndStore) and op.rope else op
        for op in model.loaded.program.instructions
    )
    turned = replace(model.loaded, program=replace(model.loaded.program, instructions=instructions))
    assert fingerprint(turned, "f16", "cpu").differences(ours) == ["model", "rope"]


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_happens_to_the_bytes_is_noticed(data: st.DataObject) -> None:
    """Cut, grown, overwritten: a `KVFileError` each time, and never another content."""
    sound = SavedKV((5, 6, 7), (0, 1, 9), (b"abcdefghi", bytes(30)))
    ours = Fingerprint("m", "t", "f16", "cpu-1", "r")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kv"
        size = write_kv(path, ours, sound)
        assert read_kv(path, ours) == sound
        assert [p.name for p in Path(folder).iterdir()] == ["kv"]
        whole = path.read_bytes()
        assert len(whole) == size
        at = data.draw(st.integers(0, size - 1))
        kind = data.draw(st.sampled_from(("cut", "grow", "change")))
        if kind == "cut":
            path.write_bytes(whole[:at])
        elif kind == "grow":
            path.write_bytes(whole[:at] + b"x" + whole[at:])
        else:
            path.write_bytes(whole[:at] + bytes((whole[at] ^ data.draw(st.integers(1, 255)),)) + whole[at + 1 :])
        with pytest.raises(KVFileError):
            read_kv(path, ours)
