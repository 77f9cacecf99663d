"""What readers see of a step's events, by the plain way and by the whole way alike."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.api.news import Call, News, Running, publish
from plait.api.results import Delta
from plait.errors import StepError
from plait.tokenizer import Tokenizer
from plait.tokenizer.output import OutputText
from plait.types import EngineRequest, FinishReason, SamplingParams, TokenEvent

GOLDENS = Path(__file__).parent.parent / "golden" / "tokenizers"
TOKENIZERS = {name: Tokenizer.load(GOLDENS / f"{name}.gguf") for name in ("byte_level", "sentencepiece", "space_mark")}
names = st.sampled_from(sorted(TOKENIZERS))


class Whole(OutputText):
    """Never goes the plain way."""

    def plain(self, token: int) -> str | None:
        return None


def call_of(outputs: list[OutputText]) -> Call:
    request = EngineRequest(request_id="r", prompt=(1,), sampling=SamplingParams(seed=1, n=len(outputs)))
    return Call([Running(request, 3, None, outputs, len(outputs))])


def told(kind: type[OutputText], name: str, stops: list[str], ids: list[list[int]], final: bool) -> list[object]:
    """News and ends of two samples that get these tokens, a list at a time."""
    call = call_of([kind(TOKENIZERS[name], stops) for _ in range(2)])
    found: list[object] = []

    def finish(request_id: str, index: int) -> None:
        found.append((request_id, index))

    running = {"r": call.running[0]}
    for tokens in ids:
        logprobs = tuple([((token, -0.5),) for token in tokens])
        events = [TokenEvent("r", i, tuple(tokens), logprobs) for i in range(2)]  # type: ignore[arg-type]
        publish([*events, TokenEvent("gone", 0, (5,))], running, finish)
        found += call.take()
    if final:
        reason = FinishReason.LENGTH
        events = [TokenEvent("r", i, (), (), reason, prompt_tokens=1, cached_tokens=1) for i in range(2)]
        publish(events, running, finish)
        found += call.take()
    return [*found, call.open, call.running[0].open]


@given(
    names,
    st.lists(st.sampled_from(["e", "th", "he", " t", "in", "é", "漢"]), max_size=2),
    st.lists(st.lists(st.integers(-1, 500), max_size=2), max_size=30),
    st.booleans(),
)
def test_the_plain_way_tells_what_the_whole_way_tells(
    name: str, stops: list[str], ids: list[list[int]], final: bool
) -> None:
    got, want = (told(kind, name, stops, ids, final) for kind in (OutputText, Whole))
    assert [*map(repr, got)] == [*map(repr, want)]


@given(names, st.text(alphabet="the in aé漢😀", max_size=40), st.lists(st.sampled_from(["th", "é", "n a"]), max_size=2))
def test_text_that_a_model_may_write_comes_the_plain_way_as_well(name: str, text: str, stops: list[str]) -> None:
    tokenizer = TOKENIZERS[name]
    ids = [[token] for token in tokenizer.encode(text, add_special=False)]
    got, want = (told(kind, name, stops, ids, True) for kind in (OutputText, Whole))
    assert [*map(repr, got)] == [*map(repr, want)]


def test_most_tokens_go_the_plain_way() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    output, ids = OutputText(tokenizer, ["\n\n"]), tokenizer.encode("the text the text", add_special=False)
    output.push(ids, False)
    assert "".join(str(output.plain(token)) for token in ids) == "the text the text"


def test_news_are_taken_by_prompt_and_have_the_fields_of_a_delta() -> None:
    assert list(News._fields) == [one.name for one in fields(Delta)]
    call = call_of([OutputText(TOKENIZERS["byte_level"])])
    call.news.extend([News(2, 0, "a", (1,)), News(0, 0, "b", (2,)), News(2, 0, "c", (3,))])
    assert [news.text for news in call.take()] == ["b", "a", "c"]
    assert call.take() == []
    error = StepError("no")
    delta = News(1, 0, "", (), error=error, prompt_tokens=4).delta()
    assert delta == Delta(prompt_index=1, index=0, text="", token_ids=(), error=error, prompt_tokens=4)
    assert delta.final


@pytest.mark.parametrize("reason", [FinishReason.STOP, None])
def test_what_ends_is_open_no_more(reason: FinishReason | None) -> None:
    call = call_of([OutputText(TOKENIZERS["byte_level"]) for _ in range(2)])
    error = None if reason else StepError("no")
    publish([TokenEvent("r", 1, (), (), reason, error)], {"r": call.running[0]}, lambda *end: None)
    assert (call.open, call.running[0].open) == (1, 1)
    (news,) = call.take()
    assert (news.index, news.finish_reason, news.error) == (1, reason, error)
