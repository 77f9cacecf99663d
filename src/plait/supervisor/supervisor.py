"""Keeps an engine process running, and its requests alive: an `EngineClient` for one event loop.

One task lives through the engine's lives: start, wait for the end, decide, start again. Everything else is called by
the loop's own events. Decides nothing about requests: `roster` does. Loads no engine, no model and no arrays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from plait.config import EngineOptions, NotGiven, NotNamed, SupervisorOptions
from plait.errors import EngineDownError, PlaitError, QueueFullError, QueueTimeoutError
from plait.supervisor.calls import Calls
from plait.supervisor.child import REAPING_S, Child
from plait.supervisor.client import EngineInfo, EngineState, EngineStatus, Health
from plait.supervisor.restarts import Restarts
from plait.supervisor.roster import Roster
from plait.supervisor.stream import Stream
from plait.supervisor.troubles import Troubles
from plait.types import EngineRequest, TokenEvent, TokenId
from plait.wire.faults import error_of
from plait.wire.messages import (
    UNSENDABLE,
    Abort,
    AskStatus,
    CallFailed,
    Count,
    ErasePrefix,
    Events,
    Finish,
    FromEngine,
    Load,
    LoadFailed,
    Loading,
    LogLine,
    Message,
    Ready,
    RestorePrefix,
    SavePrefix,
    Status,
    Stop,
    Submit,
    token_event,
)

STATUS_S = 10.0
PREFIX_S = 120.0
LAST_WORDS_S = 5.0
"""An engine that was told to stop has so long to do it."""
WATCH_EVERY_S = 0.25
WATCH_AGAIN_S = 5.0
_log = logging.getLogger("plait")


class Supervisor:
    """`model` is what `plait run` takes; `progress` hears of (bytes prepared, bytes in all) while it loads."""

    def __init__(
        self,
        model: str | None = None,
        engine_options: EngineOptions | None = None,
        options: SupervisorOptions | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        engine_options = engine_options or EngineOptions()
        self._load = Load(model, _given(engine_options))
        self._refuses_any = not engine_options.max_queue_tokens  # with that bound a small request might find room
        self._options = options or SupervisorOptions()
        self._progress = progress
        self._clock = clock
        self._state = EngineState.STARTING
        self._reason = "the engine starts"
        self._info: EngineInfo | None = None
        self._child: Child | None = None
        self._serving = False  # the child of now said that it is ready
        self._refusal: PlaitError | None = None  # why the child of now could not load
        self._roster = Roster(Restarts(self._options.max_restarts))
        self._streams: dict[str, Stream] = {}
        self._calls = Calls()
        self._began = clock()
        self._troubles = Troubles(self._began)
        self._first: asyncio.Future[EngineInfo] | None = None
        self._given_up = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin; returns before the engine is ready."""
        loop = asyncio.get_running_loop()
        self._first = loop.create_future()
        self._tasks = [loop.create_task(self._live()), loop.create_task(self._watch())]

    async def ready(self) -> EngineInfo:
        """Wait until the engine was ready once. Raises the error of a failed load, or `EngineDownError`."""
        assert self._first is not None, "start() comes first"
        return await asyncio.shield(self._first)

    async def gave_up(self) -> str:
        """Wait until there is no engine and will be none though nobody stopped it; returns why."""
        await self._given_up.wait()
        return self._reason

    async def stop(self, drain_s: float | None = None, *, last_words_s: float = LAST_WORDS_S) -> None:
        """Accept nothing more; wait at most `drain_s` seconds (default: the option's) for what runs, hand the rest back
        with `EngineDownError`, and end the engine, by force after `last_words_s`. Every stream has its end by then, and
        the process is dead. May be called again with less patience, once this call was cancelled."""
        if self._state is not EngineState.FAILED:
            self._state, self._reason = EngineState.DRAINING, "the server is stopping"
        await self._until_idle(self._options.drain_timeout if drain_s is None else drain_s)
        error = EngineDownError("the server is stopping, and did not come to the end of this; send it again")
        self._end_all(error)
        self._calls.fail(error)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._child is not None:
            await self._bury(self._child, last_words_s)
        self._child, self._serving = None, False
        self._state, self._reason = EngineState.FAILED, "the server was stopped"

    async def _until_idle(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    async def _bury(self, child: Child, last_words_s: float) -> None:
        if self._serving:
            child.send(Stop())
            await asyncio.wait([child.gone], timeout=last_words_s)
        child.kill()
        await asyncio.wait([child.gone], timeout=REAPING_S)

    async def _live(self) -> None:
        try:
            await self._lives()
        except Exception as error:
            _log.exception("the engine's supervisor fails")
            self._give_up(EngineDownError(f"the engine's supervisor failed: {type(error).__name__}: {error}"))

    async def _lives(self) -> None:
        """One engine after another."""
        while True:
            self._serving, self._refusal = False, None
            try:
                child = self._child = await Child.start(self._take)
            except OSError as error:
                self._give_up(EngineDownError(f"no engine process can be started: {error}"))
                return
            self._troubles.started(self._clock())
            child.send(self._load)
            status = await asyncio.shield(child.gone)
            delay = self._bereaved(child, status)
            if delay is None:
                return
            await asyncio.sleep(delay)

    def _bereaved(self, child: Child, status: int) -> float | None:
        """The engine is dead. Seconds until the next start; None if there is none."""
        self._child, self._serving = None, False
        why = str(self._refusal) if self._refusal else _cause(status)
        numbers = child.marks.numbers()
        child.marks.close()
        self._calls.fail(EngineDownError(f"the engine process ended: {why}"))
        if self._info is None:
            self._give_up(self._refusal or EngineDownError(f"the engine process ended before it was ready: {why}"))
            return None
        self._troubles.crashed(self._clock())
        events, delay = self._roster.crashed(numbers)
        self._hand_out(events)
        crashes = self._roster.restarts.crashes
        _log.error("the engine process ended (crash %d): %s", crashes, why)
        if delay is None:
            self._give_up(EngineDownError(f"the engine crashed again and again, at last: {why}"))
        elif self._state is not EngineState.DRAINING:
            self._state, self._reason = EngineState.RESTARTING, f"the engine process ended: {why}"
        return delay

    def _give_up(self, error: PlaitError) -> None:
        self._state, self._reason = EngineState.FAILED, str(error)
        self._given_up.set()
        self._end_all(error if isinstance(error, EngineDownError) else EngineDownError(str(error)))
        assert self._first is not None
        if not self._first.done():
            self._first.set_exception(error)
            self._first.exception()  # nobody may be waiting

    async def _watch(self) -> None:
        """Kill an engine whose step takes too long, or its start; end who waits for too long where no engine does."""
        limit = self._options.step_timeout
        while True:
            await asyncio.sleep(min(WATCH_EVERY_S, limit / 4 or WATCH_EVERY_S))
            try:
                await self._look(limit)
            except Exception:  # whatever it is, nobody else watches
                _log.exception("the engine's watchdog fails, and goes on")
                await asyncio.sleep(WATCH_AGAIN_S)

    async def _look(self, limit: float) -> None:
        self._hand_out(self._roster.expired(self._clock()))
        child, why = self._child, self._hangs(limit)
        if child is not None and why:
            _log.error("%s: the engine is killed", why)
            child.kill()
            await asyncio.wait([child.gone])

    def _hangs(self, limit: float) -> str:
        age = self._step_age()
        if limit and age is not None and age > limit:
            return f"a step takes more than {limit:.0f} s"
        return "" if self._serving or not self._troubles.hangs(self._clock()) else "the start takes too long"

    def _step_age(self) -> float | None:
        if self._child is None or not self._serving:
            return None
        since = self._child.marks.busy_since
        return None if since is None else max(0.0, time.monotonic() - since)

    # --- requests ---------------------------------------------------------------------------------------------------

    @property
    def info(self) -> EngineInfo | None:
        return self._info

    @property
    def pid(self) -> int | None:
        """The engine process of now; None between two."""
        return self._child.pid if self._child is not None else None

    def health(self) -> Health:
        """Answered at once, without the engine."""
        now, age = self._clock(), self._step_age()
        why = self._troubles.why(now, age) if self._state is EngineState.READY else ""
        return Health(
            state=self._state,
            degraded=bool(why),
            step_age_s=age,
            restarts=self._roster.restarts.crashes,
            uptime_s=now - self._began,
            reason=self._reason or why,
            queue_retry_s=self._troubles.retry_s(now),
        )

    def submit(self, request: EngineRequest) -> Stream:
        """Send a request, now or when there is an engine. Raises `EngineDownError` where there will be none."""
        if self._state in (EngineState.DRAINING, EngineState.FAILED):
            raise EngineDownError(f"the engine accepts no requests: {self._reason}")
        self._roster.add(request, self._clock())
        stream = Stream(request.request_id, request.sampling.n, self._abort, self._finish)
        self._streams[request.request_id] = stream
        self._idle.clear()
        self._send_due()
        return stream

    def _abort(self, request_id: str) -> None:
        tell, events = self._roster.abort(request_id)
        if tell:
            self._send(Abort(request_id))
        self._hand_out(events)

    def _finish(self, request_id: str, index: int) -> None:
        tell, events = self._roster.finish(request_id, index)
        if tell:
            self._send(Finish(request_id, index))
        self._hand_out(events)

    def _send_due(self) -> None:
        if self._serving:
            for number, request in self._roster.due(self._clock()):
                try:
                    self._send(Submit(number, request))
                except UNSENDABLE as error:  # or it would be due for ever, and end every engine that becomes ready
                    why = f"the request cannot be handed to the engine: {error}"
                    self._hand_out(self._roster.unsendable(number, why))

    def _send(self, message: Message) -> None:
        if self._child is not None:
            self._child.send(message)

    # --- news from the engine ---------------------------------------------------------------------------------------

    def _take(self, message: FromEngine) -> None:
        match message:
            case Events(events):
                self._take_events([token_event(event) for event in events])
            case Ready(info):
                self._is_ready(info)
            case LoadFailed(fault):
                self._refusal = error_of(fault)
            case Loading(done, total):
                if self._progress is not None:
                    self._progress(done, total)
            case LogLine(level, name, text):
                logging.getLogger(name).log(level, "%s", text)
            case Status(call, value) | Count(call, value):
                self._calls.answer(call).set_result(value)
            case CallFailed(call, fault):
                self._calls.answer(call).set_exception(error_of(fault))

    def _is_ready(self, info: EngineInfo) -> None:
        self._info, self._serving = info, True
        self._troubles.ready(self._clock())
        if self._state is not EngineState.DRAINING:
            self._state, self._reason = EngineState.READY, ""
        if self._first is not None and not self._first.done():
            self._first.set_result(info)
        self._send_due()

    def _take_events(self, events: list[TokenEvent]) -> None:
        more = False
        for event in events:
            if isinstance(event.error, (QueueFullError, QueueTimeoutError)):
                self._troubles.refused(self._clock())
            if isinstance(event.error, QueueFullError) and self._refuses_any:
                self._troubles.full(self._clock(), event.error.retry_after)
            wanted, freed = self._roster.take(event)
            more |= freed
            if wanted:
                self._push(event)
        if more:
            self._send_due()

    def _hand_out(self, events: list[TokenEvent]) -> None:
        for event in events:
            self._push(event)

    def _push(self, event: TokenEvent) -> None:
        if self._streams[event.request_id].push(event):
            del self._streams[event.request_id]
            if not self._streams:
                self._idle.set()

    def _end_all(self, error: PlaitError) -> None:
        self._hand_out(self._roster.fail_all(error))

    # --- questions --------------------------------------------------------------------------------------------------

    async def status(self) -> EngineStatus:
        """Raises `EngineDownError` where the engine does not answer in time."""
        status: EngineStatus = await self._ask(AskStatus, STATUS_S)
        return status

    async def save_prefix(self, tokens: tuple[TokenId, ...], file: str, salt: str = "", salt_from: int = 0) -> int:
        """See `EngineClient`. Raises `RequestError` for a file that cannot be written."""
        return await self._count(SavePrefix, tokens, file, salt, salt_from)

    async def restore_prefix(self, file: str, salt: str = "", salt_from: int = 0) -> int:
        """See `EngineClient`. Raises `KVFileError`."""
        return await self._count(RestorePrefix, file, salt, salt_from)

    async def erase_prefix(self, tokens: tuple[TokenId, ...], salt: str = "", salt_from: int = 0) -> int:
        """See `EngineClient`."""
        return await self._count(ErasePrefix, tokens, salt, salt_from)

    async def _count(self, kind: Callable[..., Message], *what: Any) -> int:
        count: int = await self._ask(kind, PREFIX_S, *what)
        return count

    async def _ask(self, kind: Callable[..., Message], seconds: float, *what: Any) -> Any:
        if not self._serving:
            raise EngineDownError(f"the engine does not answer: {self._reason or self._state}")
        return await self._calls.ask(self._send, seconds, kind, *what)


def _given(options: EngineOptions) -> dict[str, Any]:
    """The fields that were given, or have one default for all: what is left out may be adapted."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if not isinstance(value, (NotGiven, NotNamed))}


def _cause(status: int) -> str:
    if status >= 0:
        return f"it left with exit status {status}"
    return f"it was ended by {signal.Signals(-status).name}"
