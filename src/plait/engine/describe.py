"""What a face is told of an engine: what is served, and its figures at a moment. Knows the parts of an engine; changes
nothing."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

from plait.config import EngineOptions, checked
from plait.engine.build import Opened
from plait.engine.core import Engine
from plait.metrics.advice import advise
from plait.metrics.snapshot import Snapshot, Window
from plait.models.registry import LoadedModel
from plait.scheduler.request import Phase, Request
from plait.wire.records import EngineInfo, EngineStatus, RunningRequest

WINDOW_S = 120.0
"""Advice is about the last of this time, or a little more."""
SHOWN_DECISIONS = 20


def describe(path: Path, loaded: LoadedModel, options: EngineOptions, opened: Opened) -> EngineInfo:
    """What is served."""
    return EngineInfo(
        model=path.stem if path.is_file() else path.name,
        architecture=loaded.architecture,
        device=opened.backend,
        context_length=options.n_ctx or loaded.context_length,
        vocab_size=loaded.vocab_size,
        n_embd=loaded.config.d_model,
        n_parameters=loaded.n_parameters,
        weight_bytes=loaded.weight_bytes,
        kv_type=str(options.kv_type),
        kv_tokens=(min(opened.kv.num_pages) - 1) * opened.kv.page_size,
        page_size=opened.kv.page_size,
        numerics=str(opened.mark),
    )


class Statuses:
    """Makes statuses of one engine. Keeps some snapshots, for what changed of late."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._earlier: deque[Snapshot] = deque([engine.snapshot()])
        self._checked = checked()

    def status(self) -> EngineStatus:
        """The figures of now. Raises `AssertionError` where invariants are to be verified, and do not hold."""
        if self._checked:
            self._engine.check()
        engine, now = self._engine, self._engine.snapshot()
        while len(self._earlier) > 1 and self._earlier[1].at_s <= now.at_s - WINDOW_S:
            self._earlier.popleft()
        advice = advise(Window(self._earlier[0], now))
        if now.at_s - self._earlier[-1].at_s >= WINDOW_S / 8:
            self._earlier.append(now)
        decisions = list(engine.controller.decisions)[-SHOWN_DECISIONS:] if engine.controller else []
        clock = time.monotonic()
        return EngineStatus(
            metrics=now.values,
            histograms={name: (data.bounds, data.counts, data.sum) for name, data in now.histograms.items()},
            running=tuple(_running(request, clock) for request in engine.requests),
            decisions=tuple(reason for decision in decisions for reason in decision.reasons),
            advice=tuple(one.text for one in advice),
        )


def _running(request: Request, now: float) -> RunningRequest:
    asked, length = request.engine_request, request.prompt_length
    cached = [sample.cached_tokens for sample in request.samples if sample.cached_tokens is not None]
    return RunningRequest(
        request_id=request.request_id,
        tenant=asked.tenant,
        priority=asked.priority.name.lower(),
        phase=_phase(request),
        samples=asked.sampling.n,
        prompt_tokens=length,
        cached_tokens=max(cached, default=0),
        generated_tokens=sum(max(0, len(sample.tokens) - length) for sample in request.samples),
        age_s=now - request.arrived,
    )


def _phase(request: Request) -> str:
    running = [sample for sample in request.samples if sample.phase is Phase.RUNNING]
    if not running:
        return "waiting"
    return "decode" if any(sample.total > request.prompt_length for sample in running) else "prefill"
