"""The messages, both ways, and their bytes: msgpack, an array for each message with its kind first.

Knows what is said and how it is written down; knows no sockets and nothing of who speaks.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, TypeAlias

import msgspec

from plait.types import EngineRequest, FinishReason, Logprob, TokenEvent, TokenId
from plait.wire.faults import Fault, error_of, fault_of
from plait.wire.records import EngineInfo, EngineStatus


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message; each kind has its tag."""


# --- to the engine --------------------------------------------------------------------------------------------------


class Load(Message, tag=0, frozen=True):
    """The first message: which model, and the fields of `EngineOptions` that were given."""

    model: str | None
    options: dict[str, Any]


class Submit(Message, tag=1, frozen=True):
    """`number` is the parent's short name for the request, for the rows in shared memory."""

    number: int
    request: EngineRequest


class Abort(Message, tag=2, frozen=True):
    request_id: str


class Finish(Message, tag=3, frozen=True):
    """End one sample with `stop`."""

    request_id: str
    index: int


class AskStatus(Message, tag=4, frozen=True):
    """`call` comes back with the answer, as in all questions."""

    call: int


class SavePrefix(Message, tag=5, frozen=True):
    call: int
    tokens: tuple[TokenId, ...]
    file: str
    salt: str = ""
    salt_from: int = 0


class RestorePrefix(Message, tag=6, frozen=True):
    call: int
    file: str
    salt: str = ""
    salt_from: int = 0


class ErasePrefix(Message, tag=7, frozen=True):
    call: int
    tokens: tuple[TokenId, ...]
    salt: str = ""
    salt_from: int = 0


class Stop(Message, tag=8, frozen=True):
    """End every request with `abort`, write what is to be kept, and leave."""


# --- from the engine ------------------------------------------------------------------------------------------------


class Loading(Message, tag=0, frozen=True):
    """Bytes of weights that are prepared, and in all."""

    done: int
    total: int


class Ready(Message, tag=1, frozen=True):
    info: EngineInfo


class LoadFailed(Message, tag=2, frozen=True):
    """There will be no engine: the process leaves after this."""

    fault: Fault


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A `TokenEvent`, its error as a fault. Trailing fields at their defaults are left out."""

    request_id: str
    index: int
    tokens: tuple[TokenId, ...] = ()
    logprobs: tuple[tuple[Logprob, ...], ...] = ()
    finish_reason: FinishReason | None = None
    error: Fault | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_logprobs: tuple[tuple[Logprob, ...], ...] = ()
    embedding: tuple[float, ...] = ()
    queue_s: float = 0.0
    mean_batch_tokens: float = 0.0
    mu: float | None = None


class Events(Message, tag=3, frozen=True):
    """The news of a step."""

    events: list[Event]


class Status(Message, tag=4, frozen=True):
    call: int
    status: EngineStatus


class Count(Message, tag=5, frozen=True):
    """The answer to a question about a prefix: tokens."""

    call: int
    tokens: int


class CallFailed(Message, tag=6, frozen=True):
    call: int
    fault: Fault


class LogLine(Message, tag=7, frozen=True):
    """What the engine logged; `level` is `logging`'s."""

    level: int
    name: str
    text: str


ToEngine: TypeAlias = Load | Submit | Abort | Finish | AskStatus | SavePrefix | RestorePrefix | ErasePrefix | Stop
FromEngine: TypeAlias = Loading | Ready | LoadFailed | Events | Status | Count | CallFailed | LogLine


def _plain(value: Any) -> Any:
    """Numbers of other libraries, which parameters may hold."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_from_engine = msgspec.msgpack.Decoder(FromEngine)


UNSENDABLE = (ValueError, TypeError, OverflowError)
"""What `encode` and `framed` raise for what no message can hold, such as whole numbers of more than 64 bits."""


def encode(message: Message) -> bytes:
    """A message's bytes. Raises one of `UNSENDABLE`."""
    return _encoder.encode(message)


def decode_to_engine(data: bytes | memoryview) -> ToEngine:
    """Raises `msgspec.DecodeError` for anything but a message to an engine, and what a request's own checks raise."""
    message: ToEngine = _to_engine.decode(data)
    return message


def decode_from_engine(data: bytes | memoryview) -> FromEngine:
    """Raises `msgspec.DecodeError` for anything but a message from an engine."""
    message: FromEngine = _from_engine.decode(data)
    return message


def encode_events(events: list[TokenEvent]) -> bytes:
    """`encode(Events(...))` of a step's events, without a record for each: most say one token and no more."""
    return _encoder.encode((3, [_short(event) for event in events]))


def _short(event: TokenEvent) -> tuple[Any, ...]:
    if event.mu is None and not any(event[3:]):
        return event[:3]
    error = event.error
    return event if error is None else event._replace(error=fault_of(error))  # type: ignore[arg-type]


def token_event(event: Event) -> TokenEvent:
    """The event as it was."""
    error = None if event.error is None else error_of(event.error)
    return TokenEvent(
        event.request_id,
        event.index,
        event.tokens,
        event.logprobs,
        event.finish_reason,
        error,
        event.prompt_tokens,
        event.cached_tokens,
        event.prompt_logprobs,
        event.embedding,
        event.queue_s,
        event.mean_batch_tokens,
        event.mu,
    )
