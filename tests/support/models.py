"""A tiny random model as the Python face holds it: no file, no tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plait.api import Model
from plait.models.registry import load_model
from support.tiny_llama import TinyLlama


def tiny_model(**changes: Any) -> Model:
    return Model(Path("tiny"), load_model(TinyLlama(**changes).source("gguf")), None)  # type: ignore[arg-type]
