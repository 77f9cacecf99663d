"""Shapes for GPU benchmarks, as config.json holds them."""

from __future__ import annotations

import json
from pathlib import Path

LLAMA_8B: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "hidden_act": "silu", "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
}  # fmt: skip
SMALL = LLAMA_8B | {
    "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 4096,
}  # fmt: skip
SHAPES = {"llama-3.1-8b": LLAMA_8B, "small": SMALL}


def write_model(folder: Path, shape: dict[str, object]) -> Path:
    """`folder` with the shape's config and a tokenizer of as many tokens, each of which has a text of its own: for
    `--load-format random`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    count = int(str(shape["vocab_size"]))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [*alphabet, *(f"w{number}" for number in range(count - len(alphabet)))]
    tokenizer = Tokenizer(models.BPE(vocab={text: number for number, text in enumerate(texts)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
