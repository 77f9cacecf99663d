"""Who answers in `plait chat`: a model in this process, or a server.

A partner takes a conversation and yields the answer's text as it comes, what is thought before it apart, then its
figures. Leaving the answer early ends it. Knows `plait.api` and OpenAI's stream of events; nothing of terminals.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias

from plait.errors import OptionError, PlaitError
from plait.types import ChatMessage, SamplingParams

if TYPE_CHECKING:  # a chat with a server needs no engine
    from plait.api import LLM
    from plait.tokenizer.toolcalls import OutputParser

Message: TypeAlias = Mapping[str, str]
CONNECT_S = 600.0
"""The longest silence of a server, in seconds: a request may wait that long in its queue."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one answer. Tokens; `seconds` are those between the first and the last of the generated ones."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """0 where it cannot be told: it takes two tokens."""
        return (self.generated_tokens - 1) / self.seconds if self.seconds > 0 and self.generated_tokens > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Thought:
    """Text of the reasoning before an answer: shown, and no part of the conversation."""

    text: str


Answer: TypeAlias = Iterator[str | Thought | Figures]


class AnswerError(PlaitError):
    """An answer that failed. The chat goes on."""


class Partner(Protocol):
    """`note` is what one should know before one begins, or ""."""

    @property
    def name(self) -> str: ...

    @property
    def note(self) -> str: ...

    def answer(self, messages: Sequence[Message]) -> Answer:
        """Text as it comes, then `Figures`. Raises `PlaitError`."""
        ...


class LocalPartner:
    """A model in this process. Without a chat template it continues the conversation's bare text."""

    def __init__(self, llm: LLM, params: SamplingParams) -> None:
        self._llm, self._params = llm, params
        self._has_template = llm.tokenizer.chat_template is not None
        self.name = llm.model.path.name

    @property
    def note(self) -> str:
        if self._has_template:
            return ""
        return "this model has no chat template: it does not answer, it continues what was written so far"

    def answer(self, messages: Sequence[Message]) -> Answer:
        clock = _Clock()
        prompt = self._llm.chat_prompt(messages) if self._has_template else _plain(messages)
        parser = self._parser(messages) if self._has_template else None
        with closing(self._llm.stream([prompt], self._params)) as deltas:  # type: ignore[type-var]
            for delta in deltas:
                clock.see(len(delta.token_ids))
                yield from _pieces(parser, delta.text, delta.final)
                if delta.error is not None:
                    raise AnswerError(str(delta.error))
                if delta.final:
                    yield clock.figures(delta.prompt_tokens, delta.cached_tokens)

    def _parser(self, messages: Sequence[Message]) -> OutputParser | None:
        """Tells reasoning from the answer; None for a model without."""
        from plait.tokenizer.toolcalls import OutputParser, answer_format

        tokenizer = self._llm.tokenizer
        form = answer_format(tokenizer.template_for()).without_tools()
        if not form.reasoning:
            return None
        text = tokenizer.render_chat([ChatMessage(role=one["role"], content=one["content"]) for one in messages])
        return OutputParser(form, begun=form.reasoning_begun(text))


class RemotePartner:
    """A server with OpenAI's routes. `sampling` are the fields of the body that are not the server's own defaults.
    Raises `OptionError` for an address that is none, `AnswerError` where nothing answers."""

    def __init__(self, url: str, api_key: str | None, model: str | None, sampling: Mapping[str, Any]) -> None:
        if not url.startswith(("http://", "https://")):
            raise OptionError(f"--url is {url}; it begins with http:// or https://")
        self._base = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._sampling = dict(sampling)
        self.name = model or self._first_model()
        self.note = ""

    def answer(self, messages: Sequence[Message]) -> Answer:
        clock = _Clock()
        body = {"model": self.name, "messages": list(messages), "stream": True, **self._sampling}
        body["stream_options"] = {"include_usage": True}
        with self._open("/chat/completions", body) as reply:
            for event in _events(reply):
                if texts := _texts(event):
                    clock.see(1)
                    yield from texts
                if usage := event.get("usage"):
                    clock.tokens = usage["completion_tokens"]
                    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
                    yield clock.figures(usage["prompt_tokens"], cached)

    def _first_model(self) -> str:
        with self._open("/models", None) as reply:
            try:
                return str(json.load(reply)["data"][0]["id"])
            except (ValueError, LookupError, TypeError):
                raise AnswerError(f"{self._base}/models: not what a server of OpenAI's routes says") from None

    def _open(self, path: str, body: Mapping[str, Any] | None) -> IO[bytes]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, self._headers)
        try:
            reply: IO[bytes] = urllib.request.urlopen(request, timeout=CONNECT_S)
        except urllib.error.HTTPError as error:
            with error:
                raise AnswerError(f"{self._base}: {_said(error.read(), error.code)}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise AnswerError(f"{self._base}: cannot be reached: {reason}") from None
        return reply


class _Clock:
    """Counts tokens, and the time from the first to the last."""

    def __init__(self) -> None:
        self.tokens = 0
        self._first = self._last = 0.0

    def see(self, tokens: int) -> None:
        if tokens:
            self._last = time.monotonic()
            self._first = self._first or self._last
            self.tokens += tokens

    def figures(self, prompt_tokens: int, cached_tokens: int) -> Figures:
        return Figures(prompt_tokens, cached_tokens, self.tokens, self._last - self._first)


def _plain(messages: Sequence[Message]) -> str:
    return "\n".join(message["content"] for message in messages)


def _events(reply: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a stream of events. Raises `AnswerError` for an error event and a stream cut short."""
    try:
        for line in reply:
            data = line.removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or not data:
                continue
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if "error" in event:
                raise AnswerError(_said(data, 0))
            yield event
    except (OSError, ValueError) as error:
        raise AnswerError(f"the stream broke: {error}") from None
    raise AnswerError("the stream ended early; is the server still there?")


def _pieces(parser: OutputParser | None, text: str, final: bool) -> Iterator[str | Thought]:
    """A piece of an answer, by what it is."""
    if parser is None:
        yield from [text] if text else ()
        return
    from plait.tokenizer.toolcalls import Reasoning, Text

    for part in [*parser.push(text), *(parser.finish() if final else ())]:
        match part:
            case Text(said):
                yield said
            case Reasoning(thought):
                yield Thought(thought)


def _texts(event: Mapping[str, Any]) -> list[str | Thought]:
    found: list[str | Thought] = []
    for delta in [choice.get("delta") or {} for choice in event.get("choices") or ()]:
        if thought := delta.get("reasoning_content"):
            found.append(Thought(thought))
        if text := delta.get("content"):
            found.append(text)
    return found


def _said(body: bytes, status: int) -> str:
    """The message of an error's body, else its status."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"status {status}"
