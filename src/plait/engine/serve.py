"""The engine process's loop: messages, a step, events. Knows the engine, the channel and the marks; no HTTP, no text.

Messages are read between steps, without waiting where there is work; where there is none, the loop sleeps until one
comes. An error of the loop itself ends the process: its parent starts a new one and knows what to do again.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path

from plait.engine.channel import Channel, ParentGoneError
from plait.engine.describe import Statuses
from plait.engine.loading import Served, load
from plait.engine.prefixes import Prefixes
from plait.engine.rows import RowMarks
from plait.errors import PlaitError
from plait.garbage import settle
from plait.types import EngineRequest, TokenEvent
from plait.wire.faults import fault_of
from plait.wire.marks import Marks
from plait.wire.messages import (
    Abort,
    AskStatus,
    CallFailed,
    Count,
    ErasePrefix,
    Finish,
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
    ToEngine,
    decode_to_engine,
    encode,
    encode_events,
)

LAST_WORDS_S = 2.0
_log = logging.getLogger("plait")


def serve(connection: socket.socket, marks: int) -> int:
    """Load what the first message says, and serve until told to stop, or until the parent is gone. Returns the exit
    status: 0 for an end in good order, a failed load included."""
    channel = Channel(connection)
    handler = _ToParent(channel)
    logging.getLogger().addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        served = _loaded(channel)
        if served is not None:
            settle()
            channel.send(encode(Ready(served.info)))
            EngineProcess(served, channel, Marks(marks)).run()
        channel.drain(LAST_WORDS_S)
    except ParentGoneError:
        return 0
    except Exception:
        _log.exception("the engine process fails")
        channel.drain(LAST_WORDS_S)
        return 1
    finally:
        logging.getLogger().removeHandler(handler)
        channel.close()
    return 0


def _loaded(channel: Channel) -> Served | None:
    """None if it failed, which the parent was told."""
    (first,) = channel.receive(wait=True)
    order = decode_to_engine(first)
    assert isinstance(order, Load), "the first message says what to load"
    try:
        return load(order, lambda done, total: channel.send(encode(Loading(done, total))))
    except (PlaitError, OSError, MemoryError) as error:
        channel.send(encode(LoadFailed(fault_of(error))))
        return None


class EngineProcess:
    """An engine at the end of a channel."""

    def __init__(self, served: Served, channel: Channel, marks: Marks) -> None:
        self._engine = served.engine
        self._channel = channel
        self._marks = marks
        self._numbers: dict[str, int] = {}
        self._open: dict[str, int] = {}  # request: samples that have not ended
        self._statuses = Statuses(served.engine)
        self._stopped = False
        served.engine.watch = RowMarks(marks, self._numbers)

    def run(self) -> None:
        """Until a message says stop. Raises `ParentGoneError`."""
        engine, channel, marks = self._engine, self._channel, self._marks
        while not self._stopped:
            marks.busy(time.monotonic())
            for message in channel.receive(wait=False):
                self._take(decode_to_engine(message))
            if engine.has_work:
                self._tell(engine.step())
            elif not self._stopped:
                marks.idle()
                channel.pause()
        self._tell(engine.close())

    # --- messages ---------------------------------------------------------------------------------------------------

    def _take(self, message: ToEngine) -> None:
        match message:
            case Submit(number, request):
                self._add(number, request)
            case Abort(request_id):
                self._engine.abort(request_id)
            case Finish(request_id, index):
                self._engine.finish(request_id, index)
            case Stop():
                self._stopped = True
            case AskStatus(call):
                self._answer(call, lambda: Status(call, self._statuses.status()))
            case SavePrefix(call, tokens, file, salt, salt_from):
                self._answer(call, lambda: Count(call, self._prefixes.save(tokens, Path(file), salt, salt_from)))
            case RestorePrefix(call, file, salt, salt_from):
                self._answer(call, lambda: Count(call, self._prefixes.restore(Path(file), salt, salt_from)))
            case ErasePrefix(call, tokens, salt, salt_from):
                self._answer(call, lambda: Count(call, self._prefixes.erase(tokens, salt, salt_from)))
            case Load():
                raise AssertionError("a model is loaded once")

    def _add(self, number: int, request: EngineRequest) -> None:
        """A refusal is an event like others: each sample's last."""
        request_id = request.request_id
        self._marks.added(number)
        self._numbers[request_id] = number
        self._open[request_id] = request.sampling.n - len(request.ended)
        try:
            self._engine.add(request)
        except PlaitError as error:
            left = [index for index in range(request.sampling.n) if index not in request.ended]
            prompt = len(request.prompt)
            self._tell([TokenEvent(request_id, index, error=error, prompt_tokens=prompt) for index in left])

    def _answer(self, call: int, work: Callable[[], Message]) -> None:
        try:
            answer = work()
        except PlaitError as error:
            answer = CallFailed(call, fault_of(error))
        except Exception as error:  # who asked hears of it, and nobody else has to
            _log.exception("a question fails")
            answer = CallFailed(call, fault_of(error))
        self._channel.send(encode(answer))

    @property
    def _prefixes(self) -> Prefixes:
        assert self._engine.prefixes is not None, "an engine of a model has them"
        return self._engine.prefixes

    # --- events -----------------------------------------------------------------------------------------------------

    def _tell(self, events: list[TokenEvent]) -> None:
        if events:
            self._channel.send(encode_events(events))
            for event in events:
                if event.finish_reason is not None or event.error is not None:
                    self._ended(event.request_id)

    def _ended(self, request_id: str) -> None:
        self._open[request_id] -= 1
        if not self._open[request_id]:
            del self._open[request_id], self._numbers[request_id]


class _ToParent(logging.Handler):
    """What is logged here is logged there."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(logging.INFO)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._channel.send(encode(LogLine(record.levelno, record.name, self.format(record))))
        except Exception:  # logging must not end what it tells of
            self.handleError(record)
