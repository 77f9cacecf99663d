"""Plait: batched LLM inference for your own machine.

Names are loaded when first used, so that `import plait` is cheap and a server that never computes loads no kernels.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from plait.api import LLM, Batch, Context, Delta, Generation, Model, Sample
    from plait.config import EngineOptions
    from plait.errors import PlaitError
    from plait.tokenizer import Tokenizer
    from plait.types import ChatMessage, FinishReason, SamplingParams

_HOME = {
    "LLM": "plait.api",
    "Batch": "plait.api",
    "Context": "plait.api",
    "Delta": "plait.api",
    "Generation": "plait.api",
    "Model": "plait.api",
    "Sample": "plait.api",
    "EngineOptions": "plait.config",
    "PlaitError": "plait.errors",
    "Tokenizer": "plait.tokenizer",
    "ChatMessage": "plait.types",
    "FinishReason": "plait.types",
    "SamplingParams": "plait.types",
}

__all__ = [
    "LLM",
    "Batch",
    "ChatMessage",
    "Context",
    "Delta",
    "EngineOptions",
    "FinishReason",
    "Generation",
    "Model",
    "PlaitError",
    "Sample",
    "SamplingParams",
    "Tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'plait' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
