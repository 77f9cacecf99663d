"""llama.cpp's sequence operations, by example."""

from __future__ import annotations

import pytest

from plait.cache.config import CacheConfig
from plait.cache.edits import GroupEdits
from plait.cache.kv import KVCache
from plait.cache.memory import Reserved
from plait.errors import OutOfPagesError


def cache(num_pages: int = 9) -> KVCache:
    return KVCache(CacheConfig(4, (num_pages,)))


def fill(kv: KVCache, seq: int, count: int) -> None:
    assert kv.reserve_shared((seq,), count) is not None
    kv.take_edits()


def test_tokens_of_several_sequences_are_stored_once() -> None:
    kv = cache()
    reserved = kv.reserve_shared((0, 1), 2)
    assert reserved == Reserved(positions=(0, 1), stores=(((0, 4), (1, 5)),))
    assert kv.table(0) == kv.table(1) == ((1, 0, 2),)
    assert kv.reserve_shared((1, 0), 1) == Reserved((2,), (((0, 6),),))
    kv.check()


def test_where_tails_differ_each_sequence_stores_the_row() -> None:
    kv = cache()
    fill(kv, 0, 2)
    fill(kv, 1, 2)
    assert kv.reserve_shared((0, 1), 1) == Reserved((2,), (((0, 6), (0, 10)),))


def test_after_full_pages_even_strangers_share() -> None:
    kv = cache()
    fill(kv, 0, 4)
    fill(kv, 1, 4)
    assert kv.reserve_shared((0, 1), 1) == Reserved((4,), (((0, 12),),))


def test_sequences_that_part_within_one_batch_need_no_copy() -> None:
    kv = cache()
    kv.reserve_shared((0, 1), 2)
    kv.reserve_shared((0,), 1)
    kv.reserve_shared((1,), 1)
    assert kv.take_edits() == (GroupEdits(),)
    assert kv.table(0) == ((1, 0, 2), (2, 0, 1))
    assert kv.table(1) == ((1, 0, 2), (3, 0, 1))
    kv.check()


def test_sequences_that_part_later_copy_the_shared_page() -> None:
    kv = cache()
    kv.reserve_shared((0, 1), 2)
    kv.take_edits()
    assert kv.reserve_shared((0,), 1) == Reserved((2,), (((0, 10),),))
    assert kv.take_edits() == (GroupEdits(copies=((4, 8, 2),)),)
    assert kv.reserve_shared((1,), 1) == Reserved((2,), (((0, 6),),))


def test_positions_must_continue_every_sequence() -> None:
    kv = cache()
    fill(kv, 0, 3)
    with pytest.raises(ValueError, match="sequence 1 continues at position 0, not at 3"):
        kv.reserve_shared((0, 1), 1)
    with pytest.raises(ValueError, match="sequence 0 continues at position 3, not at 5"):
        kv.reserve_shared((0,), 1, 5)
    assert kv.reserve_shared((0, 1), 1, 3) is not None  # an empty sequence begins anywhere
    assert (kv.seq_pos_min(1), kv.seq_pos_max(1)) == (3, 3)
    with pytest.raises(ValueError, match="positions begin at 0"):
        kv.reserve_shared((2,), 1, -1)
    with pytest.raises(ValueError, match="at least one sequence"):
        kv.reserve_shared((), 1)


def test_no_room_changes_nothing() -> None:
    kv = cache(num_pages=3)
    fill(kv, 0, 5)
    assert kv.reserve_shared((1,), 1) is None
    assert kv.seq_pos_max(1) == -1
    with pytest.raises(KeyError):
        kv.length(1)


def test_sharers_of_different_parts_of_a_page_get_one_copy_of_all_parts() -> None:
    kv = cache()
    fill(kv, 0, 3)
    kv.seq_cp(0, 1, 1, -1)
    kv.seq_cp(0, 2, -1, -1)
    assert kv.reserve_shared((1, 0), 1) == Reserved((3,), (((0, 11),),))
    assert kv.take_edits() == (GroupEdits(copies=((4, 8, 3),)),)
    assert (kv.table(0), kv.table(1), kv.table(2)) == (((2, 0, 4),), ((2, 1, 3),), ((1, 0, 3),))


def test_cp_shares_and_the_first_to_write_copies() -> None:
    kv = cache()
    fill(kv, 0, 10)
    kv.seq_cp(0, 1, 2, 9)
    assert kv.table(1) == ((1, 2, 2), (2, 0, 4), (3, 0, 1))
    assert (kv.seq_pos_min(1), kv.seq_pos_max(1)) == (2, 8)
    assert kv.stats().held == (3,)
    fill(kv, 1, 1)
    assert kv.table(1) == ((1, 2, 2), (2, 0, 4), (4, 0, 2))
    kv.check()


def test_cp_into_a_sequence_replaces_the_same_positions_and_keeps_the_others() -> None:
    kv = cache()
    fill(kv, 0, 6)
    fill(kv, 1, 8)
    kv.seq_cp(0, 1, 2, 5)
    assert kv.table(1) == ((3, 0, 2), (1, 2, 2), (2, 0, 1), (4, 1, 3))
    before = kv.table(1)
    kv.seq_cp(0, 1, 2, 5)
    assert kv.table(1) == before
    kv.check()


def test_cp_of_a_prefix_can_still_be_cached() -> None:
    kv = cache()
    kv.open(0)
    kv.reserve(0, 6)
    kv.take_edits()
    kv.commit(0, [1, 2, 3, 4, 5, 6])
    kv.seq_cp(0, 1, -1, 5)
    kv.reserve(1, 3)
    kv.take_edits()
    kv.commit(1, [7, 8, 9])
    assert kv.cached_prefix([1, 2, 3, 4, 5, 7, 8, 9, 10]) == 8


def test_rm_of_the_end_and_of_the_middle() -> None:
    kv = cache()
    fill(kv, 0, 10)
    assert kv.seq_rm(0, 8, -1)
    assert kv.table(0) == ((1, 0, 4), (2, 0, 4))
    assert kv.seq_rm(0, 3, 6)
    assert kv.table(0) == ((1, 0, 3), (2, 2, 2))
    assert (kv.length(0), kv.seq_pos_max(0)) == (5, 7)
    assert kv.seq_rm(9, -1, -1)  # nothing there: nothing to do
    kv.check()


def test_rm_of_all_sequences() -> None:
    kv = cache()
    fill(kv, 0, 5)
    fill(kv, 1, 3)
    assert kv.seq_rm(-1, 2, -1)
    assert (kv.seq_pos_max(0), kv.seq_pos_max(1)) == (1, 1)
    assert kv.seq_rm(-1, -1, -1)
    assert kv.stats().free == (8,)


def test_keep_forgets_the_others() -> None:
    kv = cache()
    for seq in range(3):
        fill(kv, seq, 2)
    kv.seq_keep(1)
    assert [kv.seq_pos_max(seq) for seq in range(3)] == [-1, 1, -1]


def test_context_shift() -> None:
    """The classic: keep the first tokens, drop some, move the rest down."""
    kv = cache()
    fill(kv, 0, 12)
    kv.seq_rm(0, 2, 6)
    kv.seq_add(0, 6, -1, -4)
    assert kv.seq_pos_max(0) == 7
    assert kv.take_edits() == (GroupEdits(repositions=tuple((slot, slot - 8) for slot in range(10, 16))),)
    assert kv.reserve_shared((0,), 1) == Reserved((8,), (((0, 16),),))
    kv.check()


def test_shifting_a_shared_page_copies_it_first() -> None:
    kv = cache()
    fill(kv, 0, 6)
    kv.seq_cp(0, 1, -1, -1)
    kv.seq_add(1, 4, -1, 10)
    assert kv.table(0) == ((1, 0, 4), (2, 0, 2))
    assert kv.table(1) == ((1, 0, 4), (3, 0, 2))
    assert kv.take_edits() == (GroupEdits(copies=((8, 12, 2),), repositions=((12, 14), (13, 15))),)
    assert (kv.seq_pos_max(0), kv.seq_pos_max(1)) == (5, 15)


def test_a_copy_takes_the_waiting_positions_along_and_a_new_page_has_none() -> None:
    kv = cache(num_pages=4)
    fill(kv, 0, 2)
    kv.seq_add(0, 0, -1, 5)
    kv.seq_cp(0, 1, -1, -1)
    fill_without_step = kv.reserve_shared((1,), 1)
    assert fill_without_step == Reserved((7,), (((0, 10),),))
    kv.seq_rm(0, -1, -1)  # page 1 goes, and its waiting positions with it once it is handed out
    assert kv.reserve_shared((2,), 8) is not None
    assert kv.take_edits() == (GroupEdits(copies=((4, 8, 2),), repositions=((8, 5), (9, 6))),)


def test_a_given_up_reservation_is_no_obstacle_to_a_shift() -> None:
    """What a face does when the batch found no room: take the tokens back, shift, try again."""
    kv = cache()
    fill(kv, 0, 5)
    kv.reserve_shared((0,), 2)
    kv.seq_rm(0, 5, -1)
    kv.seq_rm(0, 0, 2)
    kv.seq_add(0, 2, -1, -2)
    assert kv.take_edits()[0].repositions == ((6, 0), (7, 1), (8, 2))


def test_a_page_handed_out_again_can_be_shifted_at_once() -> None:
    kv = cache(num_pages=4)
    fill(kv, 1, 2)
    kv.seq_cp(1, 2, -1, -1)
    kv.reserve_shared((0,), 8)
    kv.seq_rm(0, -1, -1)  # its tokens will not be stored after all
    kv.seq_add(2, 0, -1, 3)  # in a copy, in one of those pages
    assert kv.table(2) == ((2, 0, 2),)
    assert kv.take_edits() == (GroupEdits(copies=((4, 8, 2),), repositions=((8, 3), (9, 4))),)


def test_two_parts_of_a_page_of_ones_own_need_no_copy() -> None:
    kv = cache()
    fill(kv, 0, 4)
    kv.seq_rm(0, 1, 2)
    kv.seq_add(0, 2, -1, -1)
    assert kv.take_edits() == (GroupEdits(repositions=((6, 1), (7, 2))),)


def test_tokens_moved_below_zero_are_removed() -> None:
    kv = cache()
    fill(kv, 0, 6)
    kv.seq_add(0, 0, 4, -2)
    assert kv.length(0) == 4
    assert kv.take_edits()[0].repositions == ((6, 0), (7, 1))
    assert (kv.seq_pos_min(0), kv.seq_pos_max(0)) == (0, 5)


def test_division_rounds_down() -> None:
    kv = cache()
    fill(kv, 0, 6)
    kv.seq_div(0, 2, -1, 2)
    assert kv.take_edits()[0].repositions == ((6, 1), (7, 1), (8, 2), (9, 2))
    kv.seq_div(0, -1, -1, 1)
    with pytest.raises(ValueError, match="cannot be divided by 0"):
        kv.seq_div(0, -1, -1, 0)


def test_a_shift_without_room_for_the_copies_changes_nothing() -> None:
    kv = cache(num_pages=3)
    fill(kv, 0, 6)
    kv.seq_cp(0, 1, -1, -1)
    before = kv.table(1)
    with pytest.raises(OutOfPagesError, match="copies 2 shared pages"):
        kv.seq_add(1, -1, -1, 1)
    assert kv.table(1) == before
    assert kv.seq_pos_max(1) == 5
    assert kv.take_edits() == (GroupEdits(),)


def test_edited_sequences_are_not_cached() -> None:
    kv = cache()
    kv.open(0)
    kv.reserve(0, 5)
    kv.take_edits()
    kv.commit(0, [1, 2, 3, 4, 5])
    kv.seq_rm(0, 1, 2)
    kv.reserve(0, 4)
    kv.take_edits()
    kv.commit(0, [6, 7, 8, 9])
    assert kv.cached_prefix([1, 3, 4, 5, 6, 7, 8, 9]) == 0
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7, 8, 9]) == 4  # what was computed before the edit stays true
    kv.check()


def test_known_pages_that_an_edit_drops_are_evicted_from_the_end() -> None:
    kv = cache(num_pages=5)
    kv.open(0)
    tokens = list(range(16))
    kv.reserve(0, 16)
    kv.take_edits()
    kv.commit(0, tokens)
    kv.seq_rm(0, 4, 12)
    fill(kv, 1, 1)
    assert kv.cached_prefix([*tokens, 99]) == 8
    kv.check()


def test_shared_sequences_keep_what_a_window_no_longer_sees() -> None:
    kv = KVCache(CacheConfig(2, (20,), (2,), block_tokens=2))
    for _ in range(10):
        fill(kv, 0, 1)
    assert len(kv.table(0)) == 5
    assert kv.seq_rm(0, 3, -1)


def test_clear_forgets_everything() -> None:
    kv = cache()
    kv.open(0)
    kv.reserve(0, 5)
    kv.take_edits()
    kv.commit(0, [1, 2, 3, 4, 5])
    kv.clear()
    assert kv.stats().free == (8,)
    assert kv.cached_prefix([1, 2, 3, 4, 5]) == 0
