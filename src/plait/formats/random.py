"""Weights that nobody trained, for benchmarks: a shape from a config.json, values drawn where they are used.

Knows no architecture: whoever takes a tensor says its shape.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from plait.errors import ModelFileError, ModelNotFoundError
from plait.formats.tensor import F32Array, LazyTensor, U8Array

RANDOM = "RANDOM"
"""The format of such a tensor. A backend may draw it on its own device, by its own generator."""


@dataclass(frozen=True, slots=True)
class RandomTensor:
    """Matrices have rows with a norm near 1, vectors lie near 1, as in a trained model; the name is the seed."""

    name: str
    shape: tuple[int, ...]
    format: str = RANDOM

    @property
    def nbytes(self) -> int:
        """In 16 bits each."""
        return 2 * math.prod(self.shape)

    def numpy(self) -> F32Array:
        rng = np.random.default_rng(list(self.name.encode()))
        if len(self.shape) == 1:
            return rng.uniform(0.9, 1.1, self.shape).astype(np.float32)
        return rng.standard_normal(self.shape, np.float32) * np.float32(self.shape[-1] ** -0.5)

    def raw(self) -> U8Array:
        return self.numpy().reshape(-1, self.shape[-1]).view(np.uint8)


@dataclass(frozen=True, slots=True)
class RandomSource:
    """A model source with a config and no tensors of its own."""

    path: Path
    metadata: Mapping[str, object]
    container: str = "safetensors"
    tensors: Mapping[str, LazyTensor] = field(default_factory=dict)


def open_random(directory: Path) -> RandomSource:
    """The shape that `directory`'s config.json describes. Raises ModelNotFoundError if there is none, ModelFileError if
    it cannot be read as one."""
    path = directory / "config.json"
    try:
        metadata = json.loads(path.read_text())
    except OSError:
        raise ModelNotFoundError(f"{path}: not found; random weights need a config.json for their shape") from None
    except ValueError as error:
        raise ModelFileError(path, f"it is no JSON: {error}") from None
    if not isinstance(metadata, dict):
        raise ModelFileError(path, "it holds no object")
    return RandomSource(directory, metadata)
