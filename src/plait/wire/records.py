"""What an engine tells about itself: plain data, as it crosses the socket and as faces show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
