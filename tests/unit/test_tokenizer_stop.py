"""Stop strings in a stream: the same end however the text is divided, and never a part of one shown."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import RequestError
from plait.tokenizer import StopChecker

# A small alphabet, so that stop strings overlap themselves and each other.
words = st.text(alphabet="ab", min_size=1, max_size=4)
texts = st.text(alphabet="abc", max_size=30)


def naive(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Character by character: the longest stop string with which the text so far ends."""
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            hit = max(hits, key=len)
            return text[: end - len(hit)], hit
    return text, None


@given(st.lists(words, max_size=4), texts, st.lists(st.integers(0, 30), max_size=12))
def test_the_same_end_however_the_text_is_divided(stops: list[str], text: str, cuts: list[int]) -> None:
    checker = StopChecker(stops)
    places = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    shown = ""
    hit = None
    for start, end in pairwise(places):
        released, hit = checker.push(text[start:end])
        shown += released
        whole, expected = naive(text[:end], stops)
        assert hit == expected
        assert whole.startswith(shown)
        if hit is not None:
            break
        # What is held back is the longest end that can still become a stop string.
        held = text[len(shown) : end]
        starts = {stop[:n] for stop in stops for n in range(1, len(stop))}
        assert len(held) == max((len(s) for s in starts if text[:end].endswith(s)), default=0)
    shown += checker.flush()
    assert shown == naive(text, stops)[0]
    assert checker.hit == naive(text, stops)[1]


def test_text_after_the_end_is_dropped() -> None:
    checker = StopChecker(["END"])
    assert checker.push("some E") == ("some ", None)
    assert checker.push("ND of it") == ("", "END")
    assert checker.push("more") == ("", "END")
    assert checker.flush() == ""


def test_without_stop_strings_nothing_is_held() -> None:
    checker = StopChecker([])
    assert checker.push("text") == ("text", None)
    assert checker.flush() == ""


def test_the_first_to_be_complete_ends_it_and_the_longest_of_equals() -> None:
    assert StopChecker(["abcd", "bc"]).push("xabcd") == ("xa", "bc")
    assert StopChecker(["c", "bc", "abc"]).push("xabcd") == ("x", "abc")


@pytest.mark.parametrize("stop", [[""], ["a", ""], "word"])
def test_bad_stop_strings_are_refused(stop: list[str]) -> None:
    with pytest.raises(RequestError, match="stop"):
        StopChecker(stop)
