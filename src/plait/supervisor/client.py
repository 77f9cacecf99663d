"""What a face sees of an engine: submit a request, read its events, ask how things are.

The contract only. `supervisor.Supervisor` keeps it with an engine process, tests with a fake. Knows plain data, no
processes and no HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from plait.types import EngineRequest, TokenEvent


class EngineState(StrEnum):
    """Where the engine is. Requests are accepted in all but the last two: while it restarts, they wait."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What is served. Known once the engine was ready for the first time. Lengths and capacities are in tokens."""

    model: str
    architecture: str
    device: str
    context_length: int
    vocab_size: int
    n_embd: int
    n_parameters: int
    weight_bytes: int
    kv_type: str
    kv_tokens: int
    page_size: int
    numerics: str = ""
    """Fingerprint of everything that changes a bit of the results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`step_age_s` is the time since the current step began, None between steps. `restarts` counts crashes since the
    start. `reason` says in a sentence why the state is not READY, or READY is degraded."""

    state: EngineState
    degraded: bool = False
    step_age_s: float | None = None
    restarts: int = 0
    uptime_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRequest:
    """One accepted request as the engine sees it now. `phase` is waiting, prefill or decode."""

    request_id: str
    tenant: str
    priority: str
    phase: str
    samples: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """The engine's figures at one moment. `metrics[name][label value]` are counters and gauges ("" without a label),
    `histograms[name]` is (upper bounds, counts, sum); see `metrics.catalogue`. `decisions` are the controller's latest
    sentences, oldest first; `advice` are sentences, too."""

    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    histograms: Mapping[str, tuple[tuple[float, ...], tuple[int, ...], float]] = field(default_factory=dict)
    running: tuple[RunningRequest, ...] = ()
    decisions: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


class RequestStream(Protocol):
    """The events of one request, each sample's last one final, then the end. Exactly one final event of each sample
    comes, whatever happens to the engine; a refusal by the engine is one, too (its `error` says which)."""

    def __aiter__(self) -> AsyncIterator[TokenEvent]: ...

    async def __anext__(self) -> TokenEvent: ...

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

    async def save_prefix(self, tokens: tuple[int, ...], file: str) -> int:
        """Write the KV memory of the longest cached beginning of `tokens` to `file`; returns how many tokens."""
        ...

    async def restore_prefix(self, file: str) -> int:
        """Read such a file back into the cache; returns how many tokens. Raises `KVFileError`."""
        ...

    async def erase_prefix(self, tokens: tuple[int, ...]) -> int:
        """Drop what is cached of `tokens` alone; returns how many tokens."""
        ...
