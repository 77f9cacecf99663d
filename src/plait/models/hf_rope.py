"""Rotary embeddings out of Hugging Face's config.json.

transformers 5 writes one object, rope_parameters, or one for each type of layer in it; older ones rope_theta beside
rope_scaling (null or an object whose type is under rope_type or, older still, type).
"""

from __future__ import annotations

from typing import Any

from plait.errors import UnsupportedModelError
from plait.models.config import MAX_CONTEXT
from plait.models.keys import Keys
from plait.models.rope import (
    default_inv_freq,
    divided_inv_freq,
    linear_inv_freq,
    llama3_inv_freq,
    longrope_scale,
    yarn_inv_freq,
    yarn_scale,
)
from plait.ops.api import Rope, RopeLayout

KNOWN = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "mrope")
MAX_FACTOR = 1e6


def read_ropes(
    keys: Keys, head_dim: int, layout: RopeLayout, partial: float, context_length: int, layer_type: str = ""
) -> dict[str, Any]:
    """The config's fields `rope`, `short_rope` and `short_context`. `layer_type`: whose, where types differ."""
    return RopeReader(keys, head_dim, layout, partial, context_length, layer_type).read()


class RopeReader:
    """Raises ModelFileError for keys that are out of range, UnsupportedModelError for a type that is not known."""

    def __init__(
        self, keys: Keys, head_dim: int, layout: RopeLayout, partial: float, context_length: int, layer_type: str = ""
    ) -> None:
        self._keys, self._layout, self._context = keys, layout, context_length
        scaling = keys.section("rope_parameters" if keys.has("rope_parameters") else "rope_scaling")
        self.scaling = scaling.section(layer_type) if layer_type and scaling.has(layer_type) else scaling
        self._dim = self._rotated(head_dim, partial)
        older = keys.number("rotary_emb_base", 1e-6, 1e15, default=10000.0)
        self.theta = self._either("rope_theta", 1e-6, 1e15, older)

    @property
    def kind(self) -> str:
        return self.scaling.string("rope_type", default=self.scaling.string("type", default="default"))

    def read(self) -> dict[str, Any]:
        if self.kind in ("longrope", "su"):
            return self._longrope()
        return {"rope": Rope(self._layout, *self._frequencies(self.kind))}

    def _frequencies(self, kind: str) -> tuple[tuple[float, ...], float]:
        """Frequencies and scale."""
        plain = default_inv_freq(self.theta, self._dim)
        match kind:
            # Several sections turn by one position each; in text all positions are equal. Dynamic scaling begins
            # beyond the context that the config names.
            case "default" | "mrope" | "dynamic":
                return plain, 1.0
            case "linear":
                return linear_inv_freq(plain, self.scaling.number("factor", 1e-6, MAX_FACTOR)), 1.0
            case "llama3":
                return self._llama3(plain), 1.0
            case "yarn":
                return self._yarn()
        raise UnsupportedModelError(self._keys.path, f"rope type '{kind}'; Plait knows {', '.join(KNOWN)}")

    def _llama3(self, plain: tuple[float, ...]) -> tuple[float, ...]:
        scaling = self.scaling
        low = scaling.number("low_freq_factor", 0, MAX_FACTOR)
        high = scaling.number("high_freq_factor", 0, MAX_FACTOR)
        if low >= high:
            raise scaling.error("low_freq_factor", f"is {low}; it must be below high_freq_factor, {high}")
        return llama3_inv_freq(plain, scaling.number("factor", 1e-6, MAX_FACTOR), low, high, self.original())

    def _yarn(self) -> tuple[tuple[float, ...], float]:
        scaling, original = self.scaling, self.original()
        factor = scaling.number("factor", 1e-6, MAX_FACTOR, default=self._context / original)
        fast = scaling.number("beta_fast", 1e-3, MAX_FACTOR, default=32.0)
        slow = scaling.number("beta_slow", 1e-3, MAX_FACTOR, default=1.0)
        truncate = scaling.boolean("truncate", default=True)
        frequencies = yarn_inv_freq(self.theta, self._dim, factor, original, fast, slow, truncate=truncate)
        scales = [scaling.number(key, 0, MAX_FACTOR, default=0.0) for key in ("mscale", "mscale_all_dim")]
        scale = yarn_scale(factor, scales[0]) / yarn_scale(factor, scales[1]) if all(scales) else yarn_scale(factor)
        return frequencies, scaling.number("attention_factor", 1e-6, MAX_FACTOR, default=scale)

    def _longrope(self) -> dict[str, Any]:
        scaling, original = self.scaling, self.original()
        factor = scaling.number("factor", 1e-6, MAX_FACTOR, default=self._context / original)
        default = longrope_scale(factor, original)
        scale = scaling.number("attention_factor", 1e-6, MAX_FACTOR, default=default)
        plain = default_inv_freq(self.theta, self._dim)
        long, short = (
            Rope(self._layout, divided_inv_freq(plain, self._factors(key)), scale)
            for key in ("long_factor", "short_factor")
        )
        return {"rope": long, "short_rope": short, "short_context": original}

    def _factors(self, key: str) -> tuple[float, ...]:
        values = self.scaling.metadata.get(key)
        if not isinstance(values, list) or len(values) != self._dim // 2:
            raise self.scaling.error(key, f"must be a list of {self._dim // 2} numbers")
        each = [Keys(self.scaling.path, {key: value}) for value in values]
        return tuple(keys.number(key, 1e-6, MAX_FACTOR) for keys in each)

    def original(self) -> int:
        """The context that the model was first trained for."""
        key = "original_max_position_embeddings"
        default = self._keys.integer(key, 1, MAX_CONTEXT, default=self._context)
        return self.scaling.integer(key, 1, MAX_CONTEXT, default=default)

    def _rotated(self, head_dim: int, partial: float) -> int:
        share = self._either("partial_rotary_factor", 0, 1, self._keys.number("rotary_pct", 0, 1, default=partial))
        dim = int(head_dim * share)
        if dim % 2:
            raise self._keys.error("head_dim", f"is {head_dim}; elements are rotated in pairs")
        return dim

    def _either(self, key: str, low: float, high: float, default: float) -> float:
        place = self.scaling if self.scaling.has(key) else self._keys
        return place.number(key, low, high, default=default)
