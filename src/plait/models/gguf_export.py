"""A model of a Hugging Face directory as GGUF holds it: keys out of its config, its tensors under llama.cpp's names and
in llama.cpp's order of rows.

What comes out is read back by the GGUF readers and must be the same model: what GGUF has no words for is refused, not
left out. Knows configs and tables of names; writes no file, and knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import count, takewhile
from pathlib import Path

import numpy as np

from plait.errors import UnsupportedModelError
from plait.formats.tensor import F32Array, LazyTensor, ModelSource, U8Array, raw_rows
from plait.models.config import DecoderConfig
from plait.models.families import GGUF_ARCHITECTURES, Architecture
from plait.models.fused import grouped_rows
from plait.models.gguf_keys import gguf_pairs, rope_tensors
from plait.models.names import GGUF_DECODER, GGUF_FALCON_40B, DecoderNames, pick
from plait.models.names_hf import FALCON_40B
from plait.models.registry import find_architecture
from plait.models.views import RowIndex, RowsOf, StackOf, TransposeOf
from plait.models.weights import WeightReader
from plait.ops.api import Rope, RopeLayout

EXPORTS: Mapping[str, str] = {
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "InternLM3ForCausalLM": "llama",
    "SmolLM3ForCausalLM": "smollm3", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3",
    "GemmaForCausalLM": "gemma", "Gemma2ForCausalLM": "gemma2", "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3", "Phi3ForCausalLM": "phi3", "PhiForCausalLM": "phi2",
    "Starcoder2ForCausalLM": "starcoder2", "GraniteForCausalLM": "granite", "Olmo2ForCausalLM": "olmo2",
    "CohereForCausalLM": "command-r", "Cohere2ForCausalLM": "cohere2", "GlmForCausalLM": "chatglm",
    "Glm4ForCausalLM": "glm4", "Exaone4ForCausalLM": "exaone4", "ExaoneForCausalLM": "exaone",
    "OlmoForCausalLM": "olmo", "InternLM2ForCausalLM": "internlm2", "GPT2LMHeadModel": "gpt2",
    "GPTNeoXForCausalLM": "gptneox", "FalconForCausalLM": "falcon", "StableLmForCausalLM": "stablelm",
    "MptForCausalLM": "mpt", "MPTForCausalLM": "mpt",
}  # fmt: skip
"""config.json's architecture to GGUF's."""

_PARTS = (
    "attention_norm", "q", "k", "v", "qkv", "attention_out", "mlp_norm", "gate", "up", "gate_up", "down", "q_norm",
    "k_norm", "attention_post_norm", "mlp_post_norm",
)  # fmt: skip
_TOP = ("embedding", "final_norm", "output", "positions")
# Said otherwise in GGUF: offsets are in the weights, layouts in the order of rows.
_TOLD_OTHERWISE = ("norm_offset", "rope", "ropes", "short_rope", "short_context", "window", "windows")


@dataclass(frozen=True, slots=True)
class Exported:
    """A model source that GGUF's readers take. `metadata` are numbers, strings and lists."""

    path: Path
    metadata: Mapping[str, object]
    tensors: Mapping[str, LazyTensor]
    container: str = "gguf"


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """A vector as float32 numbers, which llama.cpp wants, with something added to each."""

    name: str
    tensor: LazyTensor
    added: float = 0.0
    format: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def raw(self) -> U8Array:
        return self.numpy().reshape(-1, self.shape[-1]).view(np.uint8)

    def numpy(self) -> F32Array:
        values: F32Array = np.ascontiguousarray(self.tensor.numpy() + np.float32(self.added), np.float32)
        return values


@dataclass(frozen=True, slots=True, eq=False)
class Renamed:
    """A tensor under another name."""

    name: str
    tensor: LazyTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def format(self) -> str:
        return self.tensor.format

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def raw(self) -> U8Array:
        return self.tensor.raw()

    def raw_rows(self, rows: slice) -> U8Array:
        return raw_rows(self.tensor, rows)

    def numpy(self) -> F32Array:
        return self.tensor.numpy()


def export_model(source: ModelSource) -> Exported:
    """Raises UnsupportedModelError for a family, or a variant of it, that GGUF does not hold, and what the readers of
    configs raise."""
    family = find_architecture(source)
    name = str(source.metadata["architectures"][0])  # type: ignore[index]
    if name not in EXPORTS:
        known = ", ".join(EXPORTS)
        raise UnsupportedModelError(source.path, f"plait quantize does not write {name} as GGUF; it writes {known}")
    target, config = GGUF_ARCHITECTURES[EXPORTS[name]], family.read_config(source)
    names = pick(family.names, source)
    _refuse_unknown_tensors(source, family, config, names)
    called = GGUF_FALCON_40B if names.attention_norm == FALCON_40B.attention_norm else GGUF_DECODER
    apart = EXPORTS[name] == "internlm2"
    tensors = {tensor.name: tensor for tensor in _tensors(source, config, names, called, apart)}
    tensors |= {tensor.name: tensor for tensor in rope_tensors(config, source)}
    metadata = gguf_pairs(EXPORTS[name], config, source)
    exported = Exported(source.path, metadata, tensors)
    turned = _turned(exported, config, target)
    exported = Exported(source.path, metadata, turned)
    _compare(source.path, name, config, target.read_config(exported))
    return exported


def _refuse_unknown_tensors(
    source: ModelSource, family: Architecture, config: DecoderConfig, names: DecoderNames
) -> None:
    weights = WeightReader(source)
    family.record(config, names, weights)
    weights.check_all_taken(names.unused)


def _tensors(
    source: ModelSource, config: DecoderConfig, names: DecoderNames, target: DecoderNames, apart: bool
) -> Iterator[LazyTensor]:
    """`apart`: GGUF keeps q, k and v, which the family fuses group by group, as three matrices."""
    for old, new in _renamings(config, names, target):
        for kind in ("weight", "bias"):
            tensor = _stacked(source, f"{old}.{kind}") if "{}" in old else source.tensors.get(f"{old}.{kind}")
            if tensor is None:
                continue
            if names.qkv_grouped and old.endswith(names.qkv):
                yield from _split(tensor, config, new.removesuffix(GGUF_DECODER.qkv), kind, apart)
            elif names.transposed and len(tensor.shape) == 2 and old.startswith(names.layer.partition("{}")[0]):
                yield Renamed(f"{new}.{kind}", TransposeOf(tensor))
            elif len(tensor.shape) == 1:
                added = config.norm_offset if new.endswith("_norm") and kind == "weight" else 0.0
                yield Vector(f"{new}.{kind}", tensor, added)
            else:
                yield Renamed(f"{new}.{kind}", tensor)


def _stacked(source: ModelSource, pattern: str) -> LazyTensor | None:
    """Vectors of single heads as one matrix."""
    named = (source.tensors.get(pattern.format(head)) for head in count())
    heads = tuple(takewhile(lambda tensor: tensor is not None, named))
    return StackOf(pattern, heads) if heads else None  # type: ignore[arg-type]


def _split(tensor: LazyTensor, config: DecoderConfig, prefix: str, kind: str, apart: bool) -> Iterator[LazyTensor]:
    parts = grouped_rows(config)
    if not apart:
        parts = {"qkv": np.concatenate(list(parts.values()))}
    for label, rows in parts.items():
        name = f"{prefix}attn_{label}.{kind}"
        view = RowsOf(tensor, rows, label)
        yield Vector(name, view) if len(view.shape) == 1 else Renamed(name, view)


def _renamings(config: DecoderConfig, names: DecoderNames, target: DecoderNames) -> Iterator[tuple[str, str]]:
    """Names without .weight and .bias, Hugging Face's and GGUF's."""
    for part in _TOP:
        if getattr(names, part) and not (part == "output" and config.tied):
            yield getattr(names, part), getattr(GGUF_DECODER, part)
    for layer in range(config.n_layers):
        for part in _PARTS:
            if getattr(names, part):
                place = names.layer.format(layer) + getattr(names, part)
                yield place, target.layer.format(layer) + getattr(target, part)


def _turned(exported: Exported, config: DecoderConfig, target: Architecture) -> dict[str, LazyTensor]:
    """The tensors, with the rows of q and k as the target's rotary layout wants them."""
    ours = next((rope for rope in (config.rope, *config.ropes) if rope is not None), None)
    theirs = target.read_config(exported)
    wanted = next((rope for rope in (theirs.rope, *theirs.ropes) if rope is not None), None)
    if ours is None or wanted is None or ours.layout is wanted.layout:
        return dict(exported.tensors)
    assert (ours.layout, wanted.layout) == (RopeLayout.HALF, RopeLayout.INTERLEAVED)
    tensors = dict(exported.tensors)
    for layer in range(config.n_layers):
        for part, heads in ((GGUF_DECODER.q, config.n_heads), (GGUF_DECODER.k, config.n_kv_heads)):
            for kind in ("weight", "bias"):
                name = f"{GGUF_DECODER.layer.format(layer)}{part}.{kind}"
                if name in tensors:
                    order = _interleaved(heads, config.head_dim, 2 * len(ours.inv_freq))
                    tensors[name] = Renamed(name, RowsOf(tensors[name], order, "pairs"))
    return tensors


def _interleaved(heads: int, head_dim: int, rotated: int) -> RowIndex:
    """The rows of each head so that element i and its partner, half of what is rotated apart, lie side by side."""
    one = np.arange(head_dim, dtype=np.int64)
    one[:rotated] = one[:rotated].reshape(2, rotated // 2).T.ravel()
    order: RowIndex = (np.arange(heads, dtype=np.int64)[:, None] * head_dim + one).ravel()
    return order


def _compare(path: Path, name: str, config: DecoderConfig, back: DecoderConfig) -> None:
    """Raises UnsupportedModelError for what the file would not say."""
    for each in fields(DecoderConfig):
        ours, theirs = getattr(config, each.name), getattr(back, each.name)
        if each.name not in _TOLD_OTHERWISE and not _same(ours, theirs):
            reason = f"GGUF cannot say that {each.name} is {_short(ours)} in a {name}; it would be {_short(theirs)}"
            raise UnsupportedModelError(path, reason)
    windows = [config.window_of(i) == back.window_of(i) for i in range(config.n_layers)]
    ropes = [_same_rope(config.rope_of(i), back.rope_of(i)) for i in range(config.n_layers)]
    short = _same_rope(config.short_rope, back.short_rope) and config.short_context == back.short_context
    if not (all(windows) and all(ropes) and short):
        what = "sliding windows" if not all(windows) else "rotary embeddings"
        raise UnsupportedModelError(path, f"GGUF cannot say what this {name} has for {what} in each layer")


def _same(ours: object, theirs: object) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return bool(np.isclose(ours, theirs, rtol=1e-6, atol=0))
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return ours == theirs


def _same_rope(ours: Rope | None, theirs: Rope | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    same_scale = bool(np.isclose(ours.scale, theirs.scale, rtol=1e-6))
    same_length = len(ours.inv_freq) == len(theirs.inv_freq)
    return same_scale and same_length and bool(np.allclose(ours.inv_freq, theirs.inv_freq, rtol=1e-5, atol=0))


def _short(value: object) -> str:
    return f"{value!r:.60}"
