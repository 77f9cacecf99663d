"""llama.cpp's low level, on a tiny random model: what `decode` and `Context.memory` promise."""

import numpy as np
import pytest

from plait.api import Batch, Context, DecodeStatus, Model
from plait.errors import OptionError, RequestError
from plait.ops.api import StepInputs
from support.models import tiny_model

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def context(model: Model, **changes: object) -> Context:
    settings = {"n_ctx": 64, "n_seq_max": 4, "threads": 2, "page_size": 4, "kv_type": "f32"} | changes
    return Context(model, **settings)  # type: ignore[arg-type]


def prompt_batch(tokens: list[int], seq_ids: list[int], start: int = 0) -> Batch:
    batch = Batch()
    for i, token in enumerate(tokens):
        batch.add(token, start + i, seq_ids, logits=i == len(tokens) - 1)
    return batch


def logits_of(model: Model, tokens: list[int]) -> np.ndarray:
    ctx = context(model)
    assert ctx.decode(prompt_batch(tokens, [0])) == DecodeStatus.DONE
    return ctx.logits()


def test_a_token_with_several_ids_is_stored_for_all(model: Model) -> None:
    ctx = context(model)
    assert ctx.decode(prompt_batch(PROMPT, [0, 1, 2])) == DecodeStatus.DONE
    batch = Batch()
    for seq, token in ((0, 7), (1, 8), (2, 9)):
        batch.add(token, len(PROMPT), [seq], logits=True)
    assert ctx.decode(batch) == DecodeStatus.DONE
    for i, token in enumerate((7, 8, 9)):
        assert np.array_equal(ctx.logits(i), logits_of(model, [*PROMPT, token]))
    ctx.check()


def test_seq_cp_shares_a_prefix_and_the_copy_goes_its_own_way(model: Model) -> None:
    ctx = context(model)
    ctx.decode(prompt_batch(PROMPT, [0]))
    ctx.memory.seq_cp(0, 1, 0, 6)
    assert (ctx.memory.seq_pos_min(1), ctx.memory.seq_pos_max(1)) == (0, 5)
    assert ctx.decode(prompt_batch([7, 7], [1], start=6)) == DecodeStatus.DONE
    assert np.array_equal(ctx.logits(), logits_of(model, [*PROMPT[:6], 7, 7]))
    assert ctx.decode(prompt_batch([11], [0], start=len(PROMPT))) == DecodeStatus.DONE
    assert np.array_equal(ctx.logits(), logits_of(model, [*PROMPT, 11]))
    ctx.check()


def test_seq_rm_of_the_end_lets_the_sequence_go_on_from_there(model: Model) -> None:
    ctx = context(model)
    ctx.decode(prompt_batch(PROMPT, [0]))
    assert ctx.memory.seq_rm(0, 5, -1)
    assert ctx.decode(prompt_batch([8], [0], start=5)) == DecodeStatus.DONE
    assert np.array_equal(ctx.logits(), logits_of(model, [*PROMPT[:5], 8]))


def test_seq_keep_forgets_the_others_and_clear_everything(model: Model) -> None:
    ctx = context(model)
    ctx.decode(prompt_batch(PROMPT, [0, 1]))
    ctx.memory.seq_keep(1)
    assert (ctx.memory.seq_pos_max(0), ctx.memory.seq_pos_max(1)) == (-1, len(PROMPT) - 1)
    ctx.memory.clear()
    assert ctx.memory.seq_pos_max(1) == -1
    ctx.check()


def test_a_shifted_sequence_computes_as_if_its_tokens_had_stood_there(model: Model) -> None:
    """RoPE looks at differences of positions only: a sequence shifted as a whole gives the same logits."""
    ctx = context(model)
    ctx.decode(prompt_batch(PROMPT, [0]))
    ctx.memory.seq_add(0, 0, -1, 5)
    assert (ctx.memory.seq_pos_min(0), ctx.memory.seq_pos_max(0)) == (5, 4 + len(PROMPT))
    assert ctx.decode(prompt_batch([7], [0], start=5 + len(PROMPT))) == DecodeStatus.DONE
    np.testing.assert_allclose(ctx.logits(), logits_of(model, [*PROMPT, 7]), rtol=1e-4, atol=1e-4)


def test_context_shift_drops_the_middle_and_closes_the_gap(model: Model) -> None:
    ctx = context(model)
    ctx.decode(prompt_batch(PROMPT, [0]))
    ctx.memory.seq_cp(0, 1, -1, -1)
    ctx.memory.seq_rm(0, 2, 5)
    ctx.memory.seq_add(0, 5, -1, -3)
    assert ctx.memory.seq_pos_max(0) == len(PROMPT) - 4
    assert ctx.decode(prompt_batch([7], [0], start=len(PROMPT) - 3)) == DecodeStatus.DONE
    assert ctx.decode(prompt_batch([7], [1], start=len(PROMPT))) == DecodeStatus.DONE
    assert np.array_equal(ctx.logits(), logits_of(model, [*PROMPT, 7]))  # the copy was not touched
    ctx.check()


def test_seq_div_halves_positions(model: Model) -> None:
    ctx = context(model)
    ctx.decode(prompt_batch(PROMPT, [0]))
    ctx.memory.seq_div(0, 0, -1, 2)
    assert ctx.memory.seq_pos_max(0) == (len(PROMPT) - 1) // 2
    assert ctx.decode(prompt_batch([7], [0], start=len(PROMPT) // 2)) == DecodeStatus.DONE
    assert np.isfinite(ctx.logits()).all()


def test_no_room_changes_nothing(model: Model) -> None:
    ctx = context(model, kv_tokens=8, n_seq_max=2)
    assert ctx.decode(prompt_batch(PROMPT, [0])) == DecodeStatus.DONE
    assert ctx.decode(prompt_batch(list(range(1, 13)), [1])) == DecodeStatus.NO_ROOM
    assert ctx.memory.seq_pos_max(1) == -1
    ctx.check()
    assert ctx.decode(prompt_batch([7], [0], start=len(PROMPT))) == DecodeStatus.DONE
    assert np.array_equal(ctx.logits(), logits_of(model, [*PROMPT, 7]))


def test_abort_changes_nothing(model: Model) -> None:
    ctx = context(model, abort=lambda: True)
    assert ctx.decode(prompt_batch(PROMPT, [0])) == DecodeStatus.ABORTED
    assert ctx.memory.seq_pos_max(0) == -1


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([], "empty"),
        ([(1, 0, [])], "sequence ids"),
        ([(1, 0, [0, 0])], "twice"),
        ([(1, 0, [9])], "not one of"),
        ([(-1, 0, [0])], "vocabulary"),
        ([(10**6, 0, [0])], "vocabulary"),
        ([(1, 0, [0]), (1, 2, [0])], "does not continue"),
        ([(1, 0, [0]), (1, 0, [0])], "does not continue"),
        ([(1, -1, [0])], "does not continue"),
        ([(1, 64, [0])], "context"),
        ([(1, i, [0]) for i in range(9)], "n_batch"),
    ],
)
def test_an_invalid_batch_says_why_and_changes_nothing(
    model: Model, tokens: list[tuple[int, int, list[int]]], said: str
) -> None:
    ctx = context(model, n_batch=8)
    batch = Batch()
    for token in tokens:
        batch.add(*token)
    assert ctx.decode(batch) == DecodeStatus.INVALID
    assert said in ctx.last_error
    assert ctx.memory.seq_pos_max(0) == -1
    ctx.check()


def test_logits_that_nobody_asked_for_are_refused(model: Model) -> None:
    ctx = context(model)
    ctx.decode(prompt_batch(PROMPT, [0]))
    with pytest.raises(RequestError, match="token 0"):
        ctx.logits(0)
    assert np.array_equal(ctx.logits(-1), ctx.logits(len(PROMPT) - 1))


def test_the_mask_follows_from_ids_and_positions() -> None:
    batch = Batch()
    batch.add(1, 0, [0, 1])
    batch.add(2, 1, [0])
    batch.add(3, 1, [1])
    assert batch.mask().tolist() == [[True, False, False], [True, True, False], [True, False, True]]


class Broken:
    def run(self, step: StepInputs) -> None:
        raise RuntimeError("broken")


def test_a_step_that_raises_leaves_the_memory_as_before(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what sequence operations had asked of the step: the copy of a shared page, new positions."""
    ctx, quiet = context(model), context(model)
    for one in (ctx, quiet):
        one.decode(prompt_batch(PROMPT, [0]))
        one.memory.seq_cp(0, 1)
        one.memory.seq_add(1, 3, -1, 2)
    next_one = prompt_batch([7], [1], start=len(PROMPT) + 2)
    with monkeypatch.context() as broken:
        broken.setattr(ctx, "_executable", Broken())
        with pytest.raises(RuntimeError, match="broken"):
            ctx.decode(next_one)
    ctx.check()
    assert (ctx.decode(next_one), quiet.decode(next_one)) == (DecodeStatus.DONE, DecodeStatus.DONE)
    assert np.array_equal(ctx.logits(), quiet.logits())


def test_an_operation_that_makes_no_sense_is_refused_and_changes_nothing(model: Model) -> None:
    ctx = context(model)
    ctx.decode(prompt_batch(PROMPT, [0]))
    for dst in (-1, ctx.n_seq_max):
        with pytest.raises(RequestError, match=f"sequence {dst} "):
            ctx.memory.seq_cp(0, dst)
    with pytest.raises(RequestError, match="cannot grow"):
        ctx.memory.seq_add(0, 0, -1, 2**40)
    for d in (0, -1):
        with pytest.raises(RequestError, match="divided"):
            ctx.memory.seq_div(0, 0, -1, d)
    assert ctx.decode(prompt_batch([7], [0], start=len(PROMPT))) == DecodeStatus.DONE
    assert np.array_equal(ctx.logits(), logits_of(model, [*PROMPT, 7]))
    with pytest.raises(OptionError, match="kv_tokens"):
        context(model, kv_tokens=-500)
