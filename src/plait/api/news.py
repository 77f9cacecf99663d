"""From a step's token events to what their readers see, all of a step at once. Knows the requests of a call and their
texts; knows no engine and no lock.

Hot: a step has an event for every sequence, and most say one token more. Those are named tuples until somebody asks for
a `Delta`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from plait.api.results import Delta, Sample
from plait.errors import StepError
from plait.tokenizer.output import OutputText
from plait.types import EngineRequest, FinishReason, Logprob, TokenEvent, TokenId

_new = tuple.__new__  # hot: records are made without their constructors


class News(NamedTuple):
    """A `Delta` in the making: its fields, in their order."""

    prompt_index: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks for here
    text: str
    token_ids: tuple[TokenId, ...]
    logprobs: tuple[tuple[Logprob, ...], ...] = ()
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    embedding: tuple[float, ...] = ()

    def delta(self) -> Delta:
        return Delta(**self._asdict())


class Gathered:
    """What came of one sample. It is put together as it comes, while the device computes the next step: half a million
    tokens at the end would have it wait for a third of a second."""

    __slots__ = ("_last", "_logprobs", "_text", "_token_ids")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._token_ids: list[TokenId] = []
        self._logprobs: list[tuple[Logprob, ...]] = []
        self._last: News | None = None

    def add(self, news: News) -> None:
        self._text.append(news.text)
        self._token_ids += news.token_ids
        self._logprobs += news.logprobs
        self._last = news

    def sample(self) -> Sample:
        """The whole; its last news must have come."""
        last = self._last
        assert last is not None
        return Sample(
            index=last.index,
            text="".join(self._text),
            token_ids=tuple(self._token_ids),
            logprobs=tuple(self._logprobs),
            finish_reason=last.finish_reason,
            error=last.error,
            cached_tokens=last.cached_tokens,
        )


@dataclass
class Running:
    """One request on its way; `open` of its samples have not ended."""

    request: EngineRequest
    prompt_index: int
    prompt: str | None
    outputs: list[OutputText]
    open: int
    call: Call = field(init=False)
    faults: dict[int, StepError] = field(default_factory=dict)


class Call:
    """Requests that were handed in together, and the news of them that nobody has read yet."""

    def __init__(self, running: list[Running]) -> None:
        self.running = running
        self.open = sum(one.open for one in running)
        self.news: deque[News] = deque()
        for one in running:
            one.call = self

    def take(self) -> list[News]:
        """What there is by now, by prompt, and of each in the order it came."""
        taken = [self.news.popleft() for _ in range(len(self.news))]
        taken.sort(key=itemgetter(0))
        return taken


def publish(events: Iterable[TokenEvent], running: Mapping[str, Running], finish: Callable[[str, int], None]) -> None:
    """Hand a step's news to the calls of those who are `running`, by the ids of their requests. `finish` is told of a
    sample that is to end: its stop string came, or its text cannot be made."""
    for event in events:
        request_id, index, tokens, logprobs, reason, error = event[:6]
        one = running.get(request_id)
        if one is None:
            continue
        if reason is None and error is None and len(tokens) == 1:
            text = one.outputs[index].plain(tokens[0])
            if text is not None:
                told = (one.prompt_index, index, text, tokens, logprobs, None, None, 0, 0, ())
                one.call.news.append(_new(News, told))
                continue
        _deliver(one, event, finish)


def _deliver(one: Running, event: TokenEvent, finish: Callable[[str, int], None]) -> None:
    """The whole way of an event, of which `publish` goes the plain part."""
    output = one.outputs[event.index]
    try:
        shown = output.see(event)
    except Exception as error:  # the text of one sample cannot be made: it ends, and nobody else does
        output.ended = True
        one.faults[event.index] = StepError.of(error)
        shown = output.see(event)
        if not event.final:
            finish(event.request_id, event.index)
    if shown is None:  # not of a final event
        return
    if shown.finish:
        finish(event.request_id, event.index)
    fault = one.faults.get(event.index)
    one.call.news.append(
        News(
            prompt_index=one.prompt_index,
            index=event.index,
            text=shown.text,
            token_ids=shown.tokens,
            logprobs=shown.logprobs,
            finish_reason=None if fault else shown.finish_reason,
            error=fault or shown.error,
            prompt_tokens=event.prompt_tokens,
            cached_tokens=event.cached_tokens,
            embedding=event.embedding,
        )
    )
    # Last: who reads on another thread takes a call that is not open for one whose news are all there.
    one.open -= event.final
    one.call.open -= event.final
