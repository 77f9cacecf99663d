"""Quantised checkpoints of PyTorch: what config.json says of them, and their parts put together to one tensor for each
weight, under the name that it has in the original checkpoint.

Knows the keys and names of AWQ, GPTQ and compressed-tensors; knows no architecture, and does no arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from plait.errors import ModelFileError, UnsupportedModelError
from plait.formats.integer_packings import WORD, Awq, Compressed, Gptq, Packing
from plait.formats.integer_tensor import IntegerTensor, Notes
from plait.formats.quant.integers import I32Array
from plait.formats.stored import StoredTensor
from plait.formats.tensor import LazyTensor

Stored: TypeAlias = Mapping[str, StoredTensor]

READS = (
    "AWQ (gemm, 4 bits), GPTQ (2, 4 and 8 bits) and compressed-tensors (pack-quantized and int-quantized, 4 and 8 bits)"
)
_AWQ_PARTS = ("qweight", "qzeros", "scales")
_GPTQ_PARTS = (*_AWQ_PARTS, "g_idx")
_PACKED_PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
# Scales of activations and of the KV cache: Plait has its own.
_UNUSED = (
    "input_scale", "input_zero_point", "input_global_scale", "input_g_idx", "output_scale", "output_zero_point",
    "k_scale", "v_scale", "q_scale", "k_zero_point", "v_zero_point",
)  # fmt: skip


def weights_of(path: Path, config: Mapping[str, object], stored: Stored) -> Mapping[str, LazyTensor]:
    """`stored` with the parts of each quantised matrix replaced by a tensor NAME.weight; `stored` itself for a model
    that is not quantised.

    Raises `UnsupportedModelError` for a method or a variant of it that Plait does not read, `ModelFileError` for parts
    that are missing or do not fit together."""
    given = next((config[key] for key in ("quantization_config", "compression_config") if config.get(key)), None)
    if given is None:
        return stored
    if not isinstance(given, dict):
        raise ModelFileError(path, f"key 'quantization_config' is {given!r:.200}; it must be an object")
    method = given.get("quant_method", "unnamed")
    readers = {"awq": _awq, "gptq": _gptq, "compressed-tensors": _compressed}
    if method not in readers:
        raise _refusal(path, f"by '{method}'")
    return readers[method](_Reader(path, stored, Notes(path)), given)


def _refusal(path: Path, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        path, f"its weights are quantised {what}; Plait reads {READS}, the original checkpoint, and GGUF files"
    )


def _awq(reader: _Reader, config: Mapping[str, Any]) -> Mapping[str, LazyTensor]:
    bits, version = config.get("bits", config.get("w_bit", 4)), str(config.get("version", "gemm")).lower()
    if bits != 4 or version != "gemm":
        raise _refusal(reader.path, f"by AWQ's '{version}' in {bits} bits")
    return reader.replace("qweight", _AWQ_PARTS, lambda name: reader.by_input(name, None))


def _gptq(reader: _Reader, config: Mapping[str, Any]) -> Mapping[str, LazyTensor]:
    bits, layout = config.get("bits"), config.get("checkpoint_format") or "gptq"
    if bits not in (2, 4, 8) or layout not in ("gptq", "gptq_v2") or config.get("is_marlin_format"):
        raise _refusal(reader.path, f"by GPTQ in the layout '{layout}' with {bits} bits")
    less = 1 if layout == "gptq" else 0
    return reader.replace("qweight", _GPTQ_PARTS, lambda name: reader.by_input(name, less))


def _compressed(reader: _Reader, config: Mapping[str, Any]) -> Mapping[str, LazyTensor]:
    schemes = config.get("config_groups")
    if not isinstance(schemes, dict) or not schemes:
        raise ModelFileError(reader.path, "key 'config_groups': expected an object of quantisation schemes")
    bits = {_scheme_bits(reader.path, config, scheme) for scheme in schemes.values()}
    packed = reader.replace("weight_packed", _PACKED_PARTS, lambda name: reader.compressed(name, "weight_packed", bits))
    bytes_reader = _Reader(reader.path, {n: t for n, t in packed.items() if isinstance(t, StoredTensor)}, reader.notes)
    plain = bytes_reader.replace(
        "weight_scale",
        ("weight", *_PACKED_PARTS),
        lambda name: reader.compressed(name, "weight", bits),
    )
    made = {name: tensor for name, tensor in packed.items() if isinstance(tensor, IntegerTensor)}
    return {name: tensor for name, tensor in {**plain, **made}.items() if name.rpartition(".")[2] not in _UNUSED}


def _scheme_bits(path: Path, config: Mapping[str, Any], scheme: Any) -> int:
    """The bits of a scheme's weights."""
    weights = scheme.get("weights") if isinstance(scheme, dict) else None
    if not isinstance(weights, dict):
        raise _refusal(path, "by compressed-tensors in a scheme without weights")
    layout = scheme.get("format") or config.get("format") or "unnamed"
    kind, bits, strategy = weights.get("type", "int"), weights.get("num_bits"), weights.get("strategy")
    known = layout in ("pack-quantized", "int-quantized", "naive-quantized") and kind == "int" and bits in (4, 8)
    if not known or strategy not in (None, "tensor", "channel", "group"):
        raise _refusal(path, f"by compressed-tensors as '{layout}' ({kind} of {bits} bits for each {strategy})")
    if config.get("sparsity_config", {}).get("format", "dense") != "dense":
        raise _refusal(path, f"by compressed-tensors and stored as '{config['sparsity_config']['format']}'")
    return 4 if bits == 4 else 8


class _Reader:
    """Puts parts of one name together."""

    def __init__(self, path: Path, stored: Stored, notes: Notes) -> None:
        self.path, self.notes, self._stored = path, notes, stored
        self._in_order: dict[tuple[int, int], I32Array] = {}

    def replace(
        self, marker: str, parts: tuple[str, ...], make: Callable[[str], IntegerTensor]
    ) -> dict[str, LazyTensor]:
        """Every NAME that has the part `marker` becomes NAME.weight."""
        names = [name.removesuffix(f".{marker}") for name in self._stored if name.endswith(f".{marker}")]
        used = {f"{name}.{part}" for name in names for part in parts}
        found: dict[str, LazyTensor] = {name: tensor for name, tensor in self._stored.items() if name not in used}
        found.update({f"{name}.weight": make(name) for name in names})
        return found

    def by_input(self, name: str, less: int | None) -> IntegerTensor:
        """AWQ's, where `less` is None, else GPTQ's."""
        words, zeros, scales = (self._part(name, part, 2) for part in _AWQ_PARTS)
        n_groups, outputs = scales.shape
        bits = zeros.shape[1] * WORD // outputs if outputs else 0
        if bits not in ((4,) if less is None else (2, 4, 8)) or zeros.shape != (n_groups, outputs * bits // WORD):
            raise self._mismatch(name, zeros, scales)
        packing: Packing = (
            Awq(words, zeros, scales, bits) if less is None else Gptq(words, zeros, scales, bits, less=less)
        )
        stored_as = (packing.inputs, outputs * bits // WORD) if less is None else (words.shape[0], outputs)
        if words.shape != stored_as:
            raise self._mismatch(name, words, scales)
        return self._tensor(name, packing, self._stored.get(f"{name}.g_idx"))

    def compressed(self, name: str, kind: str, known_bits: set[int]) -> IntegerTensor:
        weight, scale = self._part(name, kind, 2), self._part(name, "weight_scale")
        if kind == "weight":
            shape, bits = (weight.shape[0], weight.shape[1]), 8
        else:
            shape = self._shape(name)
            bits = next((n for n in known_bits if weight.shape == (shape[0], -(-shape[1] * n // WORD))), 0)
        if weight.format != ("I8" if kind == "weight" else "I32") or not bits:
            raise ModelFileError(self.path, f"is {weight.format} {weight.shape}, which does not fit", weight.name)
        zero = self._stored.get(f"{name}.weight_zero_point")
        packing = Compressed(weight, scale, zero, shape, bits)
        if scale.shape not in ((shape[0], packing.n_groups), (shape[0],), (1,), (1, 1), ()):
            raise self._mismatch(name, weight, scale)
        self._check_zero(packing, zero)
        return self._tensor(name, packing, self._stored.get(f"{name}.weight_g_idx"))

    def _check_zero(self, packing: Compressed, zero: StoredTensor | None) -> None:
        if zero is None:
            return
        if zero.format == "I8":
            fits = zero.data.size in (packing.n_groups, packing.outputs * packing.n_groups)
        else:
            rows = -(-packing.outputs * packing.bits // WORD)
            fits = zero.format == "I32" and zero.shape == (rows, packing.n_groups)
        if not fits:
            raise ModelFileError(self.path, f"is {zero.format} {zero.shape}, which does not fit", zero.name)

    def _tensor(self, name: str, packing: Packing, order: StoredTensor | None) -> IntegerTensor:
        groups = self._groups(packing) if order is None else self._given_groups(packing, order)
        return IntegerTensor(f"{name}.weight", packing, groups, self.notes, 0, packing.outputs)

    def _groups(self, packing: Packing) -> I32Array:
        key = packing.inputs, packing.n_groups
        if key[1] < 1 or key[0] % key[1]:
            raise ModelFileError(self.path, f"{key[0]} inputs cannot be shared out over {key[1]} groups",
                                 packing.parts[0].name)  # fmt: skip
        if key not in self._in_order:
            self._in_order[key] = np.arange(key[0], dtype=np.int32) // np.int32(key[0] // key[1])
        return self._in_order[key]

    def _given_groups(self, packing: Packing, order: StoredTensor) -> I32Array:
        if order.format != "I32" or order.shape != (packing.inputs,):
            raise ModelFileError(self.path, f"is {order.format} {order.shape}, which does not fit", order.name)
        groups = np.array(order.data.view("<i4"), np.int32)
        if groups.size and not 0 <= groups.min() <= groups.max() < packing.n_groups:
            raise ModelFileError(self.path, f"names a group that is none of {packing.n_groups}", order.name)
        return groups

    def _shape(self, name: str) -> tuple[int, int]:
        part = self._part(name, "weight_shape", 1)
        sizes = [int(size) for size in part.data.view("<i8" if part.format == "I64" else "<i4")]
        if part.format not in ("I64", "I32") or len(sizes) != 2 or min(sizes) < 1:
            raise ModelFileError(self.path, f"is {sizes[:4]} of {part.format}, which is no shape", part.name)
        return sizes[0], sizes[1]

    def _part(self, name: str, part: str, dimensions: int | None = None) -> StoredTensor:
        full = f"{name}.{part}"
        if full not in self._stored:
            raise ModelFileError(self.path, "is missing; the checkpoint is incomplete", full)
        tensor = self._stored[full]
        expected = {"qweight": ("I32",), "qzeros": ("I32",), "scales": ("F16", "BF16", "F32"),
                    "weight_scale": ("F16", "BF16", "F32")}.get(part, (tensor.format,))  # fmt: skip
        if tensor.format not in expected or dimensions not in (None, len(tensor.shape)):
            raise ModelFileError(self.path, f"is {tensor.format} {tensor.shape}, which does not fit", full)
        return tensor

    def _mismatch(self, name: str, one: StoredTensor, other: StoredTensor) -> ModelFileError:
        return ModelFileError(
            self.path, f"shape {one.shape} does not fit the shape {other.shape} of its scales", one.name
        )
