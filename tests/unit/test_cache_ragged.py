"""Prefixes that end within a page, and the ragged ends of closed sequences, by example."""

from __future__ import annotations

from test_cache_kv import cache, serve

from plait.cache.config import CacheConfig
from plait.cache.edits import GroupEdits
from plait.cache.kv import KVCache


def test_a_prefix_that_ends_within_a_page_is_copied_by_the_first_reserve() -> None:
    kv = cache()
    serve(kv, 0, [1, 2, 3, 4, 5, 6, 7, 8])
    assert kv.open(1, [1, 2, 3, 4, 5, 6, 9, 9, 9]) == 6
    (second,) = [page for page, _, _ in kv.table(0)][1:]
    assert kv.table(1)[1] == (second, 0, 2)
    assert kv.take_edits() == (GroupEdits(),)
    assert kv.pages_needed(1, 3) == (2,)
    ((slot, *_),) = kv.reserve(1, 3) or ()
    assert kv.take_edits() == (GroupEdits(copies=((4 * second, slot - 2, 2),)),)
    kv.commit(1, [9, 9, 9])
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 9, 9, 0]) == 8
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7, 8, 0]) == 8
    kv.check()


def test_the_page_that_begins_most_alike_is_taken() -> None:
    kv = cache(num_pages=40)
    for seq, page in enumerate(([1, 2, 3, 3], [1, 2, 5, 1], [1, 9, 9, 9], [7, 2, 4, 4], [1, 2, 5, 2])):
        serve(kv, seq, [0, 0, 0, 0, *page])
    found = {
        tuple(tokens): kv.cached_prefix([0, 0, 0, 0, *tokens, 0])
        for tokens in ([1, 2, 4], [1, 2, 5], [1, 8], [1, 9, 9], [7, 2], [7], [1, 2, 3, 3])
    }
    assert found == {(1, 2, 4): 6, (1, 2, 5): 7, (1, 8): 4, (1, 9, 9): 7, (7, 2): 6, (7,): 4, (1, 2, 3, 3): 8}


def test_the_ragged_end_of_a_closed_sequence_is_found() -> None:
    kv = cache()
    serve(kv, 0, [1, 2, 3, 4, 5, 6])
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7]) == 4
    kv.close(0)
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7]) == 6
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7]) == 6
    assert kv.stats().cached == (2,)
    serve(kv, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert kv.stats().cached == (0,)  # a whole page begins like the ragged one, which went
    kv.close(1)
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7, 8, 9, 9]) == 8  # one token is not worth a copy
    kv.check()


def test_a_ragged_end_that_another_goes_on_writing_to_is_left_to_it() -> None:
    kv = cache()
    serve(kv, 0, [1, 2, 3, 4, 5, 6])
    kv.fork(0, 1)
    kv.close(0)
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7]) == 4
    kv.reserve(1, 1)
    assert kv.take_edits() == (GroupEdits(),)
    kv.commit(1, [7])
    kv.close(1)
    assert kv.cached_prefix([1, 2, 3, 4, 5, 6, 7, 8]) == 7
    kv.check()


def test_ragged_ends_are_as_private_as_pages() -> None:
    kv = cache(num_pages=40)
    kv.open(0, salt="a", salt_from=4)
    kv.reserve(0, 7)
    kv.take_edits()
    kv.commit(0, [1, 2, 3, 4, 5, 6, 7])
    kv.close(0)
    prompt = [1, 2, 3, 4, 5, 6, 7, 8]
    assert kv.cached_prefix(prompt, "a", 4) == 7
    assert kv.cached_prefix(prompt, "b", 4) == 4
    assert kv.cached_prefix(prompt) == 4
    assert kv.cached_prefix(prompt, "a") == 0
    serve(kv, 1, [1, 2, 3, 4, 5, 6, 6])  # beside a private one, in the same node
    kv.close(1)
    assert kv.cached_prefix(prompt) == 6
    assert kv.cached_prefix(prompt, "a", 4) == 7
    kv.check()


def test_what_was_not_to_be_cached_leaves_no_ragged_end() -> None:
    kv = cache()
    kv.open(0)
    kv.reserve(0, 3)
    kv.take_edits()
    kv.commit(0, [1, 2, 3], cacheable=False)
    kv.close(0)
    assert kv.cached_prefix([1, 2, 3, 4]) == 0
    assert kv.stats().cached == (0,)


def test_a_beginning_is_not_held_where_its_page_is_the_last_that_is_needed() -> None:
    kv = cache(num_pages=4)
    serve(kv, 0, [1, 2, 3, 4, 5, 6])
    kv.close(0)
    long = [1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9]
    assert kv.open(1, long) == 4
    assert kv.reserve(1, 8) is not None
    kv.check()


def test_a_window_groups_gap_hides_the_beginning_after_it() -> None:
    kv = KVCache(CacheConfig(4, (20, 20), (None, 4), block_tokens=4))
    serve(kv, 0, list(range(16)))
    kv.close(0)
    assert kv.cached_prefix([*range(14), 99]) == 14
    assert kv.cached_prefix([*range(6), 99]) == 6
    while kv.available(1) > kv.stats().free[1]:  # evict all of the window group alone
        kv.open(7)
        assert kv.reserve(7, 4 * (kv.stats().free[1] + 1)) is not None
        kv.close(7)
    assert kv.cached_prefix([*range(14), 99]) == 0
