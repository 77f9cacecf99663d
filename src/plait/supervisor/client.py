"""What a face sees of an engine: submit a request, read its events, ask how things are.

The contract only. `supervisor.Supervisor` keeps it with an engine process, tests with a fake. Knows plain data, no
processes and no HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from plait.types import EngineRequest, TokenEvent
from plait.wire.records import EngineInfo, EngineStatus, RunningRequest

__all__ = [
    "EngineClient",
    "EngineInfo",
    "EngineState",
    "EngineStatus",
    "Health",
    "RequestStream",
    "RunningRequest",
]


class EngineState(StrEnum):
    """Where the engine is. A client takes requests in all but the last two, and they wait while there is no engine; the
    HTTP server takes none before the first engine was ready, since it does not know the model."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`step_age_s` is the time since the current step began, None between steps. `restarts` counts crashes since the
    start. `reason` says in a sentence why the state is not READY, or READY is `degraded`: a crash in the last minute, a
    step of more than 5 s, or requests that found the queue full in the last 10 s. `queue_retry_s` is
    there if one did just now and the next would: when to come again."""

    state: EngineState
    degraded: bool = False
    step_age_s: float | None = None
    restarts: int = 0
    uptime_s: float = 0.0
    reason: str = ""
    queue_retry_s: float | None = None


class RequestStream(Protocol):
    """The events of one request, each sample's last one final, then the end. Exactly one final event of each sample
    comes, whatever happens to the engine; a refusal by the engine is one, too (its `error` says which)."""

    def __aiter__(self) -> AsyncIterator[TokenEvent]: ...

    async def __anext__(self) -> TokenEvent: ...

    async def batch(self) -> list[TokenEvent]:
        """All events that are there, at least one; none at the end."""
        ...

    def abort(self) -> None:
        """Nobody reads on: end all samples and free their pages. May be called at any time, and again."""
        ...

    def finish(self, index: int) -> None:
        """End one sample with `stop`: a stop string was found in its text."""
        ...


class EngineClient(Protocol):
    """An engine, wherever it runs. All methods are for one event loop."""

    @property
    def info(self) -> EngineInfo | None:
        """None until the engine was ready once."""
        ...

    def health(self) -> Health:
        """Answered at once, without the engine."""
        ...

    def submit(self, request: EngineRequest) -> RequestStream:
        """Send a request. Raises `EngineDownError` where none is accepted any more."""
        ...

    async def status(self) -> EngineStatus:
        """Raises `EngineDownError` where the engine does not answer in time."""
        ...

    async def save_prefix(self, tokens: tuple[int, ...], file: str, salt: str = "", salt_from: int = 0) -> int:
        """Write the KV memory of the longest cached beginning of `tokens` to `file`; returns how many tokens. Salts are
        those of `Service`, here and below."""
        ...

    async def restore_prefix(self, file: str, salt: str = "", salt_from: int = 0) -> int:
        """Read such a file back into the cache; returns how many tokens. Raises `KVFileError`."""
        ...

    async def erase_prefix(self, tokens: tuple[int, ...], salt: str = "", salt_from: int = 0) -> int:
        """Drop what is cached of `tokens` alone; returns how many tokens."""
        ...
