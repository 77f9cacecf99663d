"""What the scheduler's face of the KV cache means, by example."""

from __future__ import annotations

import pytest

from plait.cache.config import CacheConfig
from plait.cache.edits import GroupEdits
from plait.cache.kv import CacheStats, KVCache


def cache(num_pages: int = 9, page_size: int = 4) -> KVCache:
    return KVCache(CacheConfig(page_size, (num_pages,)))


def run(kv: KVCache, seq: int, tokens: list[int]) -> None:
    """One step of one sequence."""
    assert kv.reserve(seq, len(tokens)) is not None
    kv.take_edits()
    kv.commit(seq, tokens)
    kv.check()


def serve(kv: KVCache, seq: int, tokens: list[int], salt: str = "") -> int:
    """A whole request; returns how many tokens it found computed."""
    cached = kv.open(seq, tokens, salt)
    run(kv, seq, tokens[cached:])
    return cached


def test_slots_follow_one_another_and_the_table_names_them() -> None:
    kv = cache()
    assert kv.open(7) == 0
    assert kv.reserve(7, 3) == ((4, 5, 6),)  # page 0 is reserved
    assert kv.table(7) == ((1, 0, 3),)
    assert kv.reserve(7, 2) == ((7, 8),)
    assert kv.table(7) == ((1, 0, 4), (2, 0, 1))
    assert (kv.length(7), kv.committed(7)) == (5, 0)
    kv.commit(7, [1, 2, 3])
    assert (kv.length(7), kv.committed(7)) == (5, 3)
    kv.check()


def test_a_whole_page_is_shared_as_soon_as_it_is_committed() -> None:
    kv = cache()
    kv.open(0)
    kv.reserve(0, 8)
    assert kv.cached_prefix([1, 2, 3, 4, 5]) == 0
    kv.commit(0, [1, 2, 3])
    assert kv.cached_prefix([1, 2, 3, 4, 5]) == 0
    kv.commit(0, [4])
    assert kv.cached_prefix([1, 2, 3, 4, 5]) == 4
    assert kv.open(1, [1, 2, 3, 4, 5]) == 4
    assert kv.table(1) == kv.table(0)[:1]
    assert kv.stats() == CacheStats(free=(6,), cached=(0,), held=(2,), evictions=0)


def test_the_last_token_is_never_taken_from_the_tree() -> None:
    kv = cache()
    serve(kv, 0, [1, 2, 3, 4, 5, 6, 7, 8])
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7, 8]) == 7
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7, 8, 9]) == 8
    assert kv.cached_prefix([]) == 0


def test_a_closed_sequence_stays_cached_until_its_pages_are_needed() -> None:
    kv = cache(num_pages=5)
    serve(kv, 0, [1, 2, 3, 4, 5, 6, 7, 8])
    kv.close(0)
    assert kv.stats() == CacheStats(free=(2,), cached=(2,), held=(0,), evictions=0)
    assert kv.available() == 4
    kv.open(1)
    assert kv.reserve(1, 12) is not None
    assert kv.stats() == CacheStats(free=(0,), cached=(1,), held=(3,), evictions=1)
    assert kv.cached_prefix([1, 2, 3, 4, 5]) == 4  # the end of the path went first


def test_the_least_recently_used_path_is_evicted_first() -> None:
    kv = cache(num_pages=5)
    for first in (10, 20, 30):
        serve(kv, first, [first, 0, 0, 0])
        kv.close(first)
    assert kv.open(1, [10, 0, 0, 0, 1]) == 4
    kv.close(1)  # now 20 is the oldest
    kv.open(2)
    kv.reserve(2, 8)
    assert [kv.cached_prefix([first, 0, 0, 0, 1]) for first in (10, 20, 30)] == [4, 0, 4]


def test_pages_in_use_are_not_evicted_and_a_refusal_changes_nothing() -> None:
    kv = cache(num_pages=5)
    serve(kv, 0, [1, 2, 3, 4])
    kv.open(1)
    assert kv.pages_needed(1, 13) == (4,)
    assert kv.reserve(1, 13) is None
    assert kv.stats() == CacheStats(free=(3,), cached=(0,), held=(1,), evictions=0)
    assert kv.table(1) == ()


def test_a_salt_keeps_tenants_apart() -> None:
    kv = cache()
    serve(kv, 0, [1, 2, 3, 4, 5], salt="alice")
    assert kv.cached_prefix([1, 2, 3, 4, 5], "bob") == 0
    assert kv.cached_prefix([1, 2, 3, 4, 5]) == 0
    assert kv.cached_prefix([1, 2, 3, 4, 5], "alice") == 4


def test_without_reuse_nothing_is_read_but_all_is_written() -> None:
    kv = cache()
    serve(kv, 0, [1, 2, 3, 4, 5])
    assert kv.open(1, [1, 2, 3, 4, 6, 7, 8, 9, 10], reuse=False) == 0
    run(kv, 1, [1, 2, 3, 4, 6, 7, 8, 9, 10])
    assert kv.cached_prefix([1, 2, 3, 4, 6, 7, 8, 9, 10]) == 8


def test_the_same_prompt_computed_twice_is_kept_once() -> None:
    kv = cache()
    kv.open(0, [1, 2, 3, 4, 5])
    kv.open(1, [1, 2, 3, 4, 5])
    kv.reserve(0, 5)
    kv.reserve(1, 5)
    kv.take_edits()
    kv.commit(0, [1, 2, 3, 4, 5])
    assert kv.table(1) == ((3, 0, 4), (4, 0, 1))
    kv.commit(1, [1, 2, 3, 4, 5])
    assert kv.table(1) == ((1, 0, 4), (4, 0, 1))
    assert kv.stats().held == (3,)
    kv.check()


def test_what_is_not_cacheable_ends_the_path() -> None:
    kv = cache()
    kv.open(0)
    kv.reserve(0, 12)
    kv.commit(0, [1, 2, 3, 4])
    kv.commit(0, [5, 6, 7, 8], cacheable=False)
    kv.commit(0, [9, 10, 11, 12])
    assert kv.cached_prefix([*range(1, 14)]) == 4


def test_a_fork_copies_the_ragged_page_on_its_first_write() -> None:
    kv = cache()
    serve(kv, 0, [1, 2, 3, 4, 5, 6])
    kv.fork(0, 1)
    assert kv.table(1) == kv.table(0)
    assert kv.pages_needed(1, 1) == (1,)
    assert kv.reserve(1, 1) == ((14,),)
    assert kv.take_edits() == (GroupEdits(copies=((8, 12, 2),)),)
    assert kv.reserve(0, 1) == ((10,),)  # alone again: in place
    assert kv.take_edits() == (GroupEdits(),)
    kv.commit(1, [70])
    kv.commit(0, [71])
    kv.check()


def test_a_fork_of_what_the_same_step_computes_starts_a_page_instead() -> None:
    kv = cache()
    kv.open(0)
    kv.reserve(0, 2)
    kv.fork(0, 1)
    assert kv.reserve(1, 1) == ((8,),)
    assert kv.take_edits() == (GroupEdits(),)  # slots 4 and 5 are empty before the step: no copy could be right
    assert kv.table(1) == ((1, 0, 2), (2, 0, 1))
    kv.commit(1, [1, 2, 3])
    assert kv.cached_prefix([1, 2, 3, 4, 5]) == 0


def test_a_fork_within_a_step_sees_which_slots_the_step_has_yet_to_fill() -> None:
    kv = cache()
    serve(kv, 0, [1, 2])
    kv.reserve(0, 1)  # slot 6 is filled by the coming step
    kv.fork(0, 1)
    kv.reserve(1, 1)
    kv.truncate(0, 1)
    assert kv.reserve(0, 1) is not None  # only slot 4 is kept: that one can be copied
    assert kv.take_edits() == (GroupEdits(copies=((4, 12, 1),)),)
    assert kv.table(1) == ((1, 0, 3), (2, 0, 1))
    assert kv.table(0) == ((3, 0, 2),)


def test_slots_that_are_planned_twice_in_a_step_are_not_copied_either() -> None:
    kv = cache()
    serve(kv, 0, [1, 2, 3])
    kv.reserve(0, 1)
    kv.truncate(0, 1)
    kv.reserve(0, 1)  # slot 5, which held a token before
    kv.fork(0, 1)
    kv.reserve(1, 1)
    assert kv.take_edits() == (GroupEdits(),)
    assert kv.table(1) == ((1, 0, 2), (2, 0, 1))


def test_rejected_drafts_are_truncated() -> None:
    kv = cache()
    serve(kv, 0, [1, 2, 3])
    kv.reserve(0, 4)
    kv.take_edits()
    kv.commit(0, [4, 5])
    kv.truncate(0, 5)
    assert kv.table(0) == ((1, 0, 4), (2, 0, 1))
    run(kv, 0, [6])
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7, 8, 9]) == 4


def test_writing_after_a_truncation_into_a_known_page_copies_it() -> None:
    kv = cache()
    serve(kv, 0, [1, 2, 3, 4, 5, 6, 7, 8])
    kv.truncate(0, 2)
    assert kv.committed(0) == 2
    assert kv.reserve(0, 1) == ((14,),)
    assert kv.take_edits() == (GroupEdits(copies=((4, 12, 2),)),)
    kv.commit(0, [9])
    run(kv, 0, [9])
    assert kv.cached_prefix([1, 2, 9, 9, 0]) == 4
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7, 8, 9]) == 8


def test_a_page_freed_and_handed_out_again_before_the_step_is_copied_in_order() -> None:
    kv = cache(num_pages=4)
    serve(kv, 0, [1, 2])
    kv.open(1)
    run(kv, 1, [5, 6])
    kv.fork(0, 2)
    kv.reserve(2, 1)  # page 1 to page 3
    kv.close(0)  # page 1 is free, and still to be read
    kv.fork(1, 3)
    assert kv.reserve(3, 1) == ((6,),)  # page 2 to page 1
    assert kv.take_edits() == (GroupEdits(copies=((4, 12, 2), (8, 4, 2))),)
    kv.check()


class TestWindows:
    """Group 0 keeps all tokens, group 1 the last 4; attention sums in blocks of 4 keys; pages of 2."""

    def cache(self, num_pages: tuple[int, int] = (30, 30)) -> KVCache:
        return KVCache(CacheConfig(2, num_pages, (None, 4), block_tokens=4))

    def test_a_window_group_gives_back_whole_blocks(self) -> None:
        kv = self.cache()
        kv.open(0)
        starts = []
        for token in range(14):
            run(kv, 0, [token])
            starts.append(kv.length(0) - sum(count for _, _, count in kv.table(0, 1)))
        assert starts == [0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8]
        assert len(kv.table(0, 0)) == 7

    def test_a_hit_needs_the_window_too(self) -> None:
        kv = self.cache((30, 9))
        tokens = list(range(14))
        for token in tokens:
            if token == 0:
                kv.open(0)
            run(kv, 0, [token])
        kv.close(0)
        assert kv.cached_prefix([*tokens, 99]) == 14
        kv.open(1)
        kv.reserve(1, 2)  # takes the one page of group 1 that was free all the time
        assert kv.cached_prefix([0, 1, 2, 3, 99]) == 4
        kv.reserve(1, 4)  # evicts what left the window first: the pages of tokens 0 to 3
        assert kv.cached_prefix([0, 1, 2, 3, 99]) == 0
        assert kv.cached_prefix([*tokens, 99]) == 14
        assert kv.open(2, [*tokens, 99]) == 14
        assert len(kv.table(2, 0)) == 7
        assert len(kv.table(2, 1)) == 3  # from token 8
        kv.check()

    def test_back_to_the_committed_tokens_always_works_and_further_is_refused(self) -> None:
        kv = self.cache()
        kv.open(0)
        run(kv, 0, list(range(14)))
        kv.reserve(0, 3)
        kv.truncate(0, 14)
        kv.truncate(0, 11)
        with pytest.raises(ValueError, match="outside the window"):
            kv.truncate(0, 10)
        assert kv.seq_rm(0, 5, -1) is False
        assert kv.length(0) == 11
        kv.truncate(0, 0)
        kv.check()

    def test_a_refusal_in_one_group_changes_none(self) -> None:
        kv = self.cache((30, 3))
        kv.open(0)
        assert kv.reserve(0, 6) is None
        assert kv.stats() == CacheStats(free=(29, 2), cached=(0, 0), held=(0, 0), evictions=0)


def test_a_table_with_a_gap_in_a_page_keeps_all_pages() -> None:
    kv = KVCache(CacheConfig(2, (20,), (2,), block_tokens=2))
    kv.open(0)
    kv.reserve(0, 1)
    kv.fork(0, 1)
    for token in range(9):
        run(kv, 1, [token])
    assert kv.committed(1) == 9
    assert sum(count for _, _, count in kv.table(1)) == 10
    kv.check()


def test_window_one_keeps_a_page_so_that_the_path_can_go_on() -> None:
    kv = KVCache(CacheConfig(1, (4,), (1,), block_tokens=1))
    kv.open(0)
    for token in range(20):
        run(kv, 0, [token])
    assert kv.table(0) == ((kv.table(0)[0][0], 0, 1),)
    assert kv.cached_prefix([*range(20), 99]) == 20


def test_a_path_evicted_above_its_sequence_is_not_continued() -> None:
    kv = KVCache(CacheConfig(2, (6,), (2,), block_tokens=2))
    kv.open(0)
    run(kv, 0, list(range(6)))  # tokens 0 to 3 have left the window
    kv.truncate(0, 5)
    kv.reserve(0, 1)  # into a copy of the third page
    kv.take_edits()
    kv.open(1)
    assert kv.reserve(1, 8) is not None  # evicts the whole path
    kv.commit(0, [50])
    assert kv.cached_prefix([0, 1, 2, 3, 4, 50, 6]) == 0
    kv.check()
    kv.truncate(0, 0)
    kv.check()


def test_ids_are_used_once() -> None:
    kv = cache()
    kv.open(0)
    with pytest.raises(ValueError, match="exists already"):
        kv.open(0)
    with pytest.raises(ValueError, match="exists already"):
        kv.fork(0, 0)
    with pytest.raises(ValueError, match="cannot be truncated"):
        kv.truncate(0, 1)
    with pytest.raises(AssertionError, match="1 tokens committed, 0 reserved"):
        kv.commit(0, [1])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CacheConfig(0, (4,)), "page_size 0"),
        (CacheConfig(4, (4, 4)), "give one for each"),
        (CacheConfig(4, (1,)), "at least 2"),
        (CacheConfig(4, (4,), (0,)), "at least 1 token"),
    ],
)
def test_sizes_that_cannot_be(config: CacheConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KVCache(config)


def test_forgetting_a_path_whose_beginning_was_evicted_takes_what_is_left_of_it() -> None:
    """Where all groups have windows, nodes without pages may lead to one that has some; they go with it."""
    kv = KVCache(CacheConfig(2, (5,), (2,), 1))
    serve(kv, 0, [1, 2, 3, 4, 5, 6])
    kv.close(0)
    serve(kv, 1, [7, 8, 9, 9])
    kv.close(1)
    assert kv.stats().evictions > 0
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 0]) == 6
    assert kv.forget([1, 2, 3, 4, 5, 6]) == 6
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 0]) == 0
    kv.check()
    assert kv.forget([1, 2, 3, 4, 5, 6]) == 0


def test_a_page_that_only_the_tree_shares_is_taken_back_where_there_is_none_for_a_copy() -> None:
    kv = cache(num_pages=3)
    serve(kv, 0, [1, 2, 3, 4, 5, 6])
    kv.share_tail(0)
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7]) == 6
    assert kv.pages_needed(0, 1) == (1,)
    assert kv.reserve(0, 3) is None
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7]) == 6, "nothing has changed"
    assert kv.reserve(0, 2) == ((10, 11),)
    assert kv.take_edits() == (GroupEdits(),), "nothing is copied"
    kv.commit(0, [7, 8])
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7, 8, 9]) == 8
    kv.check()


def test_a_page_that_another_sequence_shares_is_not_taken_back() -> None:
    kv = cache(num_pages=3)
    serve(kv, 0, [1, 2, 3, 4, 5, 6])
    kv.share_tail(0)
    assert kv.open(1, [1, 2, 3, 4, 5, 6, 7]) == 4, "no room for a copy of the rest"
    kv.fork(0, 2)
    assert kv.reserve(0, 1) is None
    kv.close(2)
    assert kv.reserve(0, 1) == ((10,),)
    kv.check()
