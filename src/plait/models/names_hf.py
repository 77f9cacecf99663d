"""Names of tensors in Hugging Face's checkpoints, one table for each way of naming them."""

from __future__ import annotations

import re
from dataclasses import replace

from plait.models.names import DecoderNames

# Old checkpoints hold the rotary frequencies or a causal mask, and tied ones may repeat the embedding as the output.
_OLD = (
    r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)|lm_head\.weight|embed_out\.weight"
    r"|(transformer\.)?h\.\d+\.attn\.(masked_)?bias|gpt_neox\.layers\.\d+\.attention\.(masked_)?bias"
)
UNUSED = re.compile(_OLD)
# Of a model that also sees, the part that reads text.
UNUSED_SIGHT = re.compile(rf"{_OLD}|(model\.)?(vision_tower|vision_model|visual|multi_modal_projector)\..*")

LLAMA = DecoderNames(
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
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
    unused=UNUSED,
)

# GLM, Phi-3 and others fuse in the same names.
FUSED = replace(LLAMA, qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj")

POST_NORMS = replace(
    LLAMA,
    attention_norm="",
    mlp_norm="",
    attention_post_norm="post_attention_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)
"""OLMo 2 and Exaone 4."""

GEMMA2 = replace(
    LLAMA,
    mlp_norm="pre_feedforward_layernorm",
    attention_post_norm="post_attention_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)

GLM4 = replace(FUSED, attention_post_norm="post_self_attn_layernorm", mlp_post_norm="post_mlp_layernorm")

STABLELM = replace(LLAMA, q_norm="self_attn.q_layernorm.norms.{}", k_norm="self_attn.k_layernorm.norms.{}")

PHI = replace(
    LLAMA,
    final_norm="model.final_layernorm",
    attention_out="self_attn.dense",
    mlp_norm="",
    gate="",
    up="mlp.fc1",
    down="mlp.fc2",
    q_norm="self_attn.q_layernorm",
    k_norm="self_attn.k_layernorm",
)

STARCODER2 = replace(LLAMA, gate="", up="mlp.c_fc", down="mlp.c_proj")

GPT2 = DecoderNames(
    embedding="transformer.wte",
    positions="transformer.wpe",
    final_norm="transformer.ln_f",
    output="lm_head",
    layer="transformer.h.{}.",
    attention_norm="ln_1",
    qkv="attn.c_attn",
    attention_out="attn.c_proj",
    mlp_norm="ln_2",
    up="mlp.c_fc",
    down="mlp.c_proj",
    transposed=True,
    unused=UNUSED,
)

GPT_NEOX = DecoderNames(
    embedding="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    output="embed_out",
    layer="gpt_neox.layers.{}.",
    attention_norm="input_layernorm",
    qkv="attention.query_key_value",
    qkv_grouped=True,
    attention_out="attention.dense",
    mlp_norm="post_attention_layernorm",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    unused=UNUSED,
)

FALCON = DecoderNames(
    embedding="transformer.word_embeddings",
    final_norm="transformer.ln_f",
    output="lm_head",
    layer="transformer.h.{}.",
    attention_norm="input_layernorm",
    qkv="self_attention.query_key_value",
    qkv_grouped=True,
    attention_out="self_attention.dense",
    mlp_norm="post_attention_layernorm",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    unused=UNUSED,
)

FALCON_40B = replace(FALCON, attention_norm="ln_attn", mlp_norm="ln_mlp")

MPT = DecoderNames(
    embedding="transformer.wte",
    final_norm="transformer.norm_f",
    output="lm_head",
    layer="transformer.blocks.{}.",
    attention_norm="norm_1",
    qkv="attn.Wqkv",
    attention_out="attn.out_proj",
    mlp_norm="norm_2",
    up="ffn.up_proj",
    down="ffn.down_proj",
    unused=UNUSED,
)

INTERNLM2 = DecoderNames(
    embedding="model.tok_embeddings",
    final_norm="model.norm",
    output="output",
    layer="model.layers.{}.",
    attention_norm="attention_norm",
    qkv="attention.wqkv",
    qkv_grouped=True,
    attention_out="attention.wo",
    mlp_norm="ffn_norm",
    gate="feed_forward.w1",
    up="feed_forward.w3",
    down="feed_forward.w2",
    unused=UNUSED,
)

EXAONE = DecoderNames(
    embedding="transformer.wte",
    final_norm="transformer.ln_f",
    output="lm_head",
    layer="transformer.h.{}.",
    attention_norm="ln_1",
    q="attn.attention.q_proj",
    k="attn.attention.k_proj",
    v="attn.attention.v_proj",
    attention_out="attn.attention.out_proj",
    mlp_norm="ln_2",
    gate="mlp.c_fc_0",
    up="mlp.c_fc_1",
    down="mlp.c_proj",
    unused=UNUSED,
)


def with_bare(names: DecoderNames) -> tuple[DecoderNames, ...]:
    """Checkpoints of the bare model leave out the first part of the names (GPT-2's own, Qwen3-Embedding's)."""
    top = names.embedding.split(".")[0] + "."
    return names, names.under(top, "")


def with_sight(names: DecoderNames) -> tuple[DecoderNames, ...]:
    """Models that also see keep the decoder under a name of its own, which changed over the years."""
    seeing = replace(names, unused=UNUSED_SIGHT)
    old = replace(seeing.under("model.", "language_model.model."), output="language_model.lm_head")
    return seeing.under("model.", "model.language_model."), old
