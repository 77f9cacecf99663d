"""Which type each tensor gets in a quantised file: llama.cpp's mixes by name.

Source of names, file types and rules: llama.cpp (llama.h, enum llama_ftype; llama-quant.cpp). Knows GGUF's tensor names
and the table of formats; reads no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from plait.formats.quant import BlockFormat, block_format

# Stays as it is in every file: small, and read by kernels that want floats.
_KEPT = re.compile(
    r"(_norm|ffn_gate_inp|ssm_conv1d|shortconv\.conv|position_embd|token_types|attn_rel_b|time_mix_\w+)\.weight$"
)
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Mix:
    """`base` is most matrices' format; `more` is given to those that matter more, in part of the layers."""

    name: str
    file_type: int
    base: str
    more: str | None = None


_MIXES = (
    Mix("F32", 0, "F32"),
    Mix("F16", 1, "F16"),
    Mix("BF16", 32, "BF16"),
    Mix("Q4_0", 2, "Q4_0"),
    Mix("Q4_1", 3, "Q4_1"),
    Mix("Q5_0", 8, "Q5_0"),
    Mix("Q5_1", 9, "Q5_1"),
    Mix("Q8_0", 7, "Q8_0"),
    Mix("IQ4_NL", 25, "IQ4_NL", "Q5_K"),
    Mix("Q4_K_S", 14, "Q4_K", "Q5_K"),
    Mix("Q4_K_M", 15, "Q4_K", "Q6_K"),
    Mix("Q5_K_S", 16, "Q5_K"),
    Mix("Q5_K_M", 17, "Q5_K", "Q6_K"),
    Mix("Q6_K", 18, "Q6_K"),
)
MIXES: Mapping[str, Mix] = MappingProxyType({mix.name: mix for mix in _MIXES})
"""Every mix that Plait writes, by llama.cpp's name."""

FLOATS = ("F32", "F16", "BF16")
_WITHOUT_256 = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the choice depends on. `tied`: the embedding is the output matrix, too. `heads_per_kv`: query heads that
    share a head of keys and values."""

    n_layers: int
    n_experts: int
    tied: bool
    heads_per_kv: int = 1


def chosen_format(name: str, shape: tuple[int, ...], mix: Mix, facts: ModelFacts) -> BlockFormat | None:
    """The format that tensor `name` gets; None for one that stays as it is."""
    if len(shape) < 2 or not name.endswith("weight") or _KEPT.search(name):
        return None
    wanted = mix.base if mix.base in FLOATS else _quantised(name, mix, facts)
    return block_format(_fitting(wanted, shape[-1]))


def _quantised(name: str, mix: Mix, facts: ModelFacts) -> str:
    if name == "output.weight" or (facts.tied and name == "token_embd.weight"):
        return mix.base if mix.base == "Q8_0" else "Q6_K"
    match = _LAYER.match(name)
    if match is None:
        return mix.base
    return _in_layer(name.removeprefix(match[0]), int(match[1]), mix, facts)


def _in_layer(part: str, layer: int, mix: Mix, facts: ModelFacts) -> str:
    eight_experts = facts.n_experts == 8
    if part in ("attn_v.weight", "attn_k.weight") and eight_experts:
        return "Q8_0"  # a small matrix in a large model
    if part == "attn_output.weight" and eight_experts and mix.base in ("Q4_K", "IQ4_NL"):
        return "Q5_K"
    if part == "attn_qkv.weight" and mix.name in ("Q4_K_M", "Q5_K_M"):
        return "Q5_K" if mix.base == "Q4_K" else "Q6_K"
    if mix.more is not None and _gets_more(part, layer, mix, facts):
        return mix.more
    return mix.base


def _gets_more(part: str, layer: int, mix: Mix, facts: ModelFacts) -> bool:
    """The M mixes: values and down projections in the first and last eighth, and in every third layer between."""
    down = part.startswith("ffn_down")
    if not down and part != "attn_v.weight":
        return False
    eighth = facts.n_layers // 8
    if mix.name == "IQ4_NL":
        return layer < eighth if down else facts.heads_per_kv >= 4
    if mix.name == "Q4_K_S":
        return layer < (eighth if down else 4)
    return layer < eighth or layer >= 7 * facts.n_layers // 8 or (layer - eighth) % 3 == 2


def _fitting(wanted: str, width: int) -> str:
    """Rows that are no multiple of a block get a format with smaller blocks."""
    if width % block_format(wanted).block_values:
        wanted = _WITHOUT_256.get(wanted, "F16")
    return "F16" if width % block_format(wanted).block_values else wanted
