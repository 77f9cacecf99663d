"""Prompts in, text out: the engine in one's own process.

Owns an engine, and turns text into requests and token events into text. Scheduling, memory and arithmetic are below.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, Unpack

from plait.api.model import Model
from plait.api.news import Call, Gathered, News, Running, publish
from plait.api.results import Delta, Generation
from plait.api.turns import Turns
from plait.config import EngineOptions, from_environment
from plait.engine.build import build_engine
from plait.engine.core import Engine
from plait.engine.stats import EngineStats
from plait.errors import OptionError, RequestError
from plait.garbage import seldom_collected
from plait.ops.api import Progress
from plait.tokenizer.output import OutputText
from plait.tokenizer.requests import Requests
from plait.types import (
    ChatMessage,
    Pooling,
    SamplingParams,
    Service,
    ServiceFields,
    TokenEvent,
    TokenId,
)

Prompt: TypeAlias = str | Sequence[TokenId]


class _Stream(Iterator[Delta]):
    """The deltas of some requests. A generator that was never asked for anything cannot clean up; this can."""

    def __init__(self, deltas: Generator[Delta], leave: Callable[[], None]) -> None:
        self._deltas = deltas
        self._leave = leave

    def __next__(self) -> Delta:
        return next(self._deltas)

    def close(self) -> None:
        """Cancel what is unfinished."""
        self._deltas.close()
        self._leave()

    __del__ = close


class LLM:
    """A model with an engine.

    `model` is a path, a hub id, a `Model`, or None for the bundled model. Options are the fields of `EngineOptions`
    (`n_ctx`, `n_parallel`, `n_batch`, `threads` ...), or one such object as `options`. `progress` is called with (bytes
    done, bytes in all) while weights are prepared; what it raises ends that. Threads may share it: their
    requests share the engine's steps. Close it, or use it as a context manager, to free its memory and threads. It does
    not outlive a fork: a child process makes its own.
    """

    def __init__(
        self,
        model: str | Path | Model | None = None,
        *,
        options: EngineOptions | None = None,
        progress: Progress | None = None,
        **fields: Any,
    ) -> None:
        if options is not None and fields:
            raise OptionError(f"give options, or {', '.join(fields)} by itself; not both")
        self.options = options or from_environment(fields)
        chosen = self.options
        self.model = model if isinstance(model, Model) else Model.load(model, chosen.n_ctx, chosen.load_format)
        self.tokenizer = self.model.tokenizer
        mark = self.tokenizer.fingerprint() if self.options.kv_cache_dir else ""
        self._engine: Engine = build_engine(self.model.loaded, self.options, progress, mark, lambda: self.tokenizer)
        self._running: dict[str, Running] = {}
        self._ids = itertools.count()
        self._lock = Turns()
        self._left: deque[str] = deque()  # requests that nobody reads any more, to be aborted
        self._process = os.getpid()
        self._requests = Requests(self.tokenizer)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        **service: Unpack[ServiceFields],
    ) -> list[Generation]:
        """Continue every prompt (text, or token ids) and return when all are done, in the order of the prompts.

        `params` is one for all prompts, or one for each. `service` are the fields of `Service`: `priority`, `tenant`,
        `timeout`, `queue_timeout`, `cache`, `salt`, `salt_from`, `pin`. Raises `RequestError` or `PromptTooLongError`
        before anything runs if a prompt cannot be served; a failure later stays in the `error` of its sample.
        """
        with seldom_collected():
            call = self._submit(prompts, params, service)
            gathered = [[Gathered() for _ in one.outputs] for one in call.running]
            for several in self._news(call):
                for news in several:
                    gathered[news[0]][news[1]].add(news)
        return [
            Generation(
                prompt=one.prompt,
                prompt_token_ids=one.request.prompt,
                samples=tuple(each.sample() for each in samples),
                seed=one.request.sampling.seed or 0,
            )
            for one, samples in zip(call.running, gathered, strict=True)
        ]

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        **service: Unpack[ServiceFields],
    ) -> Iterator[Delta]:
        """Like `generate`, but yields news as it comes, samples mixed. Leaving the loop cancels what is unfinished.

        The prompts are checked at once, before the first item is asked for.
        """
        call = self._submit(prompts, params, service)
        return _Stream(self._deltas(call), lambda: self._forget(call))

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling: Pooling | str = Pooling.MEAN,
        **service: Unpack[ServiceFields],
    ) -> list[tuple[float, ...]]:
        """A vector of length 1 for each prompt: the hidden states of the last layer after the final norm, of all tokens
        ("mean") or of the last one ("last"). The same whatever else runs.

        Raises `RequestError` or `PromptTooLongError` for a prompt that cannot be served, `StepError` for a fault.
        """
        if pooling not in set(Pooling):
            raise RequestError(f"pooling is {pooling!r}; choose one of {', '.join(Pooling)}")
        call = self._submit(prompts, SamplingParams(), service, Pooling(pooling))
        ends = {news.prompt_index: news for several in self._news(call) for news in several}  # the last of each
        for news in ends.values():
            if news.error is not None:
                raise news.error
        return [ends[i].embedding for i in range(len(call.running))]

    def chat(
        self,
        messages: Sequence[ChatMessage | Mapping[str, Any]],
        params: SamplingParams | None = None,
        **service: Unpack[ServiceFields],
    ) -> Generation:
        """The model's answer to a conversation, rendered with its own chat template. Its next turn computes only what
        is new.

        Raises `TemplateError` if the model has none.
        """
        return self.generate([self.chat_prompt(messages)], params, **service)[0]

    def chat_prompt(self, messages: Sequence[ChatMessage | Mapping[str, Any]]) -> tuple[TokenId, ...]:
        """Token ids of a conversation, ready for the model's answer."""
        turns = [m if isinstance(m, ChatMessage) else _message(m) for m in messages]
        return tuple(self.tokenizer.encode_chat(turns))

    @property
    def stats(self) -> EngineStats:
        """Totals since the engine started."""
        return self._engine.stats

    def close(self) -> None:
        """Stop the engine and free its memory. Unfinished streams end with `abort`."""
        with self._lock:
            self._post(self._engine.close())

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- requests ---------------------------------------------------------------------------------------------

    def _submit(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        fields: ServiceFields,
        pooling: Pooling | None = None,
    ) -> Call:
        service = Service(**fields)
        several = _as_list(prompts)
        each = list(params) if isinstance(params, Sequence) else [params or SamplingParams()] * len(several)
        if len(each) != len(several):
            raise RequestError(f"{len(each)} sampling parameters for {len(several)} prompts; give one, or one for each")
        if not all(isinstance(one, SamplingParams) for one in each):
            raise RequestError("sampling parameters are SamplingParams(...), one for all prompts or a list of them")
        running = [self._prepare(i, prompt, one) for i, (prompt, one) in enumerate(zip(several, each, strict=True))]
        call = Call(running)
        self._check_process()
        with self._lock:
            self._abort_left()
            for i, one in enumerate(running):
                one.request = replace(service.applied(one.request, time.monotonic()), pooling=pooling)
                try:
                    self._engine.add(one.request)
                except Exception:
                    for added in running[:i]:
                        self._engine.abort(added.request.request_id)
                    raise
            self._running.update({one.request.request_id: one for one in running})
        return call

    def _prepare(self, index: int, prompt: Prompt, params: SamplingParams) -> Running:
        text = prompt if isinstance(prompt, str) else None
        ids = self._encoded(prompt) if isinstance(prompt, str) else self._checked(prompt)
        if params.grammar is not None:
            from plait.tokenizer.grammar import check_grammar

            check_grammar(params.grammar)
        request = self._requests.make(f"r{next(self._ids)}", ids, params)
        outputs = [OutputText(self.tokenizer, params.stop) for _ in range(params.n)]
        return Running(request, index, text, outputs, params.n)

    def _encoded(self, text: str) -> tuple[TokenId, ...]:
        self._requests.check_length(text, self.options.n_ctx or self.model.context_length)
        return tuple(self.tokenizer.encode(text))

    def _checked(self, ids: Sequence[TokenId]) -> tuple[TokenId, ...]:
        if isinstance(ids, (bytes, bytearray)) or not isinstance(ids, Iterable):
            raise RequestError(f"a prompt is {type(ids).__name__}; give text, or a list of token ids")
        size, plain = self.model.vocab_size, set(map(type, ids)) <= {int}
        for token in () if plain else ids:
            if not isinstance(token, Integral):
                raise RequestError(f"a prompt has {token!r} among its token ids; they are whole numbers")
        # Half a million ids are checked before a batch's first step: in C, as far as that goes.
        if len(ids) and not 0 <= min(ids) <= max(ids) < size:
            outside = next(token for token in ids if not 0 <= token < size)
            raise RequestError(f"token id {outside} is not in the vocabulary of {size}")
        return tuple(ids) if plain else tuple(map(int, ids))

    # --- events -----------------------------------------------------------------------------------------------

    def _news(self, call: Call) -> Generator[list[News]]:
        """News as they come, at least one step's at a time."""
        try:
            while call.open or call.news:
                yield call.take()
                if call.open:
                    self._pump(call)
        finally:
            self._forget(call)

    def _deltas(self, call: Call) -> Generator[Delta]:
        for several in self._news(call):
            for news in several:
                yield news.delta()

    def _pump(self, call: Call) -> None:
        """Run a step unless another thread's step has already brought news."""
        self._check_process()
        with self._lock:
            self._abort_left()
            if not call.news:
                self._post(self._engine.step())

    def _post(self, events: list[TokenEvent]) -> None:
        """Hand news to their readers. Text is made here, not when it is read: a sample whose stop string came ends
        before the next step is planned, whichever thread plans it."""
        publish(events, self._running, self._engine.finish)

    def _forget(self, call: Call) -> None:
        """Nobody reads these any more. Takes no lock: the garbage collector may call it in the midst of a step."""
        for one in call.running:
            if self._running.pop(one.request.request_id, None) is not None and one.open:
                self._left.append(one.request.request_id)

    def _abort_left(self) -> None:
        while self._left:
            self._engine.abort(self._left.popleft())

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RequestError("this LLM was made before the process forked; make one in this process")


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, (str, bytes, bytearray)) or not isinstance(prompts, Iterable):
        return [prompts]
    several: list[Any] = list(prompts)
    return [several] if several and isinstance(several[0], Integral) else several  # one prompt, as ids, or several


def _message(fields: Mapping[str, Any]) -> ChatMessage:
    if "role" not in fields or "content" not in fields:
        raise RequestError(f"a message has the keys {sorted(fields)}; it needs 'role' and 'content'")
    extra = {key: value for key, value in fields.items() if key not in ("role", "content")}
    content = fields["content"]
    if not isinstance(content, str):
        raise RequestError(f"the content of a message is {type(content).__name__}; give text")
    return ChatMessage(role=str(fields["role"]), content=content, extra=extra)
