"""Names of a dense decoder's tensors, without their .weight or .bias, and GGUF's. Hugging Face's: `names_hf`.

GGUF stores the rows of llama's q and k in the order that interleaved rotary pairs want, Hugging Face in the order of
halves: the layout of the config's `Rope` goes with the container.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from plait.formats.tensor import ModelSource


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderNames:
    """`layer` with the layer's number put in is the prefix of the names after it. What a family does not have is empty.
    `qkv` and `gate_up` are fused matrices, looked for first; with `qkv_grouped` the rows of the former go KV head by KV
    head (its queries, k, v). `transposed`: the matrices of the layers are stored as (in, out). `unused` matches tensors
    that files of this family hold and the program does not read."""

    embedding: str
    final_norm: str
    output: str
    layer: str
    attention_norm: str
    q: str = ""
    k: str = ""
    v: str = ""
    qkv: str = ""
    qkv_grouped: bool = False
    attention_out: str
    mlp_norm: str = ""
    gate: str = ""
    up: str = ""
    gate_up: str = ""
    down: str
    positions: str = ""
    q_norm: str = ""
    k_norm: str = ""
    attention_post_norm: str = ""
    mlp_post_norm: str = ""
    transposed: bool = False
    unused: re.Pattern[str] = re.compile(r"(?!)")

    def n_found(self, source: ModelSource) -> int:
        """How many of this table's embedding, output matrix and first norm the file has."""
        norm = self.layer.format(0) + self.attention_norm
        return sum(f"{name}.weight" in source.tensors for name in (self.embedding, self.output, norm))

    def under(self, old: str, new: str) -> DecoderNames:
        """The same names where a prefix `old` is `new`."""

        def moved(name: str) -> str:
            return new + name.removeprefix(old) if name.startswith(old) else name

        return replace(
            self,
            embedding=moved(self.embedding),
            final_norm=moved(self.final_norm),
            output=moved(self.output),
            layer=moved(self.layer),
            positions=moved(self.positions),
        )


def pick(tables: tuple[DecoderNames, ...], source: ModelSource) -> DecoderNames:
    """The table that fits the file best, the first of equals."""
    return max(tables, key=lambda names: names.n_found(source))


GGUF_DECODER = DecoderNames(
    embedding="token_embd",
    final_norm="output_norm",
    output="output",
    layer="blk.{}.",
    attention_norm="attn_norm",
    q="attn_q",
    k="attn_k",
    v="attn_v",
    qkv="attn_qkv",
    attention_out="attn_output",
    mlp_norm="ffn_norm",
    gate="ffn_gate",
    up="ffn_up",
    gate_up="ffn_up",
    down="ffn_down",
    positions="position_embd",
    q_norm="attn_q_norm",
    k_norm="attn_k_norm",
    attention_post_norm="post_attention_norm",
    mlp_post_norm="post_ffw_norm",
    # The divisors went into the config; old converters repeated them, or wrote frequencies, in every layer.
    unused=re.compile(
        r"rope_freqs\.weight|rope_factors_(long|short)\.weight|blk\.\d+\.(attn_rot_embd|rope_freqs)(\.weight)?"
    ),
)
"""llama.cpp has one name for one thing in all architectures, with few exceptions."""

GGUF_FALCON_40B = replace(GGUF_DECODER, attention_norm="attn_norm_2", mlp_norm="attn_norm")
