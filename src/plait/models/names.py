"""Names of a dense decoder's tensors in each container, without their .weight or .bias.

GGUF stores the rows of llama's q and k in the order that interleaved rotary pairs want, Hugging Face in the order of
halves: the layout of the config's `Rope` goes with the container.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderNames:
    """`layer` with the layer's number put in is the prefix of the names after it. `unused` matches tensors that files
    of this family hold and the program does not read."""

    embedding: str
    final_norm: str
    output: str
    layer: str
    attention_norm: str
    q: str
    k: str
    v: str
    attention_out: str
    mlp_norm: str
    gate: str
    up: str
    down: str
    unused: re.Pattern[str]


GGUF_LLAMA = DecoderNames(
    embedding="token_embd",
    final_norm="output_norm",
    output="output",
    layer="blk.{}.",
    attention_norm="attn_norm",
    q="attn_q",
    k="attn_k",
    v="attn_v",
    attention_out="attn_output",
    mlp_norm="ffn_norm",
    gate="ffn_gate",
    up="ffn_up",
    down="ffn_down",
    # The divisors went into the config; old converters repeated them, or wrote frequencies, in every layer.
    unused=re.compile(r"rope_freqs\.weight|blk\.\d+\.(attn_rot_embd|rope_freqs)(\.weight)?"),
)

HF_LLAMA = DecoderNames(
    embedding="model.embed_tokens",
    final_norm="model.norm",
    output="lm_head",
    layer="model.layers.{}.",
    attention_norm="input_layernorm",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    attention_out="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    # Old checkpoints hold the rotary frequencies, and tied ones may repeat the embedding as the output matrix.
    unused=re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq|lm_head\.weight"),
)
