"""Typed, bounded values out of a model's metadata; what is missing, of a wrong type or out of range is named.

Knows metadata as a mapping of names to values, from GGUF or from config.json; knows no architecture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plait.errors import ModelFileError, UnsupportedModelError


@dataclass(frozen=True, slots=True)
class Keys:
    """Reads `prefix` + key out of `metadata` of the model at `path`. JSON's null counts as missing.

    Every method raises ModelFileError, naming file and key, for a value of a wrong type or outside its bounds (which
    belong to the range), and for a missing one without a default."""

    path: Path
    metadata: Mapping[str, object]
    prefix: str = ""

    def has(self, key: str) -> bool:
        return self.metadata.get(self.prefix + key) is not None

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise self.error(key, f"is {value!r}; it must be a whole number")
        if not low <= value <= high:
            raise self.error(key, f"is {value}; it must be between {low} and {high}")
        return int(value)

    def uniform_integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number, or a list with one for each layer, which must be equal: Plait keeps all layers alike."""
        value = self._value(key, default)
        if isinstance(value, str) or not isinstance(value, Iterable):
            return self.integer(key, low, high, default)
        numbers = {Keys(self.path, {self.prefix + key: each}, self.prefix).integer(key, low, high) for each in value}
        if not numbers:
            raise self.error(key, "is an empty list")
        if len(numbers) > 1:
            raise UnsupportedModelError(
                self.path, f"{self.name(key)} differs between layers ({sorted(numbers)}); Plait needs layers alike"
            )
        return numbers.pop()

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise self.error(key, f"is {value!r}; it must be a number")
        value = float(value)
        if not math.isfinite(value):
            raise self.error(key, f"is {value}; it must be finite")
        if not low <= value <= high:
            raise self.error(key, f"is {value}; it must be between {low} and {high}")
        return value

    def boolean(self, key: str, default: bool | None = None) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"is {value!r}; it must be true or false")
        return value

    def string(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"is {value!r}; it must be a string")
        return value

    def section(self, key: str) -> Keys:
        """The mapping under `key`, empty if there is none."""
        value = self.metadata.get(self.prefix + key)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self.error(key, f"is {value!r}; it must be an object")
        return Keys(self.path, value)

    def name(self, key: str) -> str:
        return f"key '{self.prefix}{key}'"

    def error(self, key: str, reason: str) -> ModelFileError:
        return ModelFileError(self.path, f"{self.name(key)} {reason}")

    def _value(self, key: str, default: object) -> object:
        value = self.metadata.get(self.prefix + key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, "is missing")
        return value
