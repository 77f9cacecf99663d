"""From the first message to an engine: opens the model, prepares it, and tells how far that is.

Knows files, models and engines; knows no socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait.config import EngineOptions
from plait.engine.build import open_engine
from plait.engine.core import Engine
from plait.engine.describe import describe
from plait.formats.hub import resolve_model
from plait.formats.open import open_weights
from plait.models.registry import load_model
from plait.wire.messages import Load
from plait.wire.records import EngineInfo

if TYPE_CHECKING:
    from plait.tokenizer import Tokenizer

TELL_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Served:
    """An engine that is ready, and what is said about it."""

    engine: Engine
    info: EngineInfo


def load(order: Load, tell: Callable[[int, int], None]) -> Served:
    """`tell` hears of (bytes prepared, bytes in all), some times a second. Raises the `PlaitError` that says why there
    is no engine."""
    options = EngineOptions(**order.options)
    path = resolve_model(order.model)
    source = open_weights(path, options.load_format)
    loaded = load_model(source, options.n_ctx)

    def tokenizer() -> Tokenizer:
        from plait.tokenizer import Tokenizer  # takes longer to import than a small model to load

        return Tokenizer.from_source(source)

    mark = tokenizer().fingerprint() if options.kv_cache_dir else ""
    opened = open_engine(loaded, options, _seldom(tell), mark, tokenizer)
    return Served(opened.engine, describe(path, loaded, options, opened))


def _seldom(tell: Callable[[int, int], None]) -> Callable[[int, int], None]:
    told = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now >= told + TELL_EVERY_S or done == total:
            told = now
            tell(done, total)

    return progress
