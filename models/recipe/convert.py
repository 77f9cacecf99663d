"""Weights of slim.py to GGUF (llama.cpp's format) and to a Hugging Face directory; knows both formats' names.

GGUF's `llama` rotates neighbouring pairs, as network.py does, so rows stay as they are. Hugging Face rotates halves:
there the rows of q and k are put in another order.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizer as vocabulary
import torch
from gguf import GGMLQuantizationType, LlamaFileType, TokenType
from safetensors.torch import save_file
from torch import Tensor

#: Name here -> (name in GGUF, name in a Hugging Face checkpoint); layers' names follow their number.
TOP = {"embedding.weight": ("token_embd.weight", "model.embed_tokens.weight"),
       "norm.weight": ("output_norm.weight", "model.norm.weight")}  # fmt: skip
LAYER = {
    "attn_norm.weight": ("attn_norm.weight", "input_layernorm.weight"),
    "q.weight": ("attn_q.weight", "self_attn.q_proj.weight"),
    "k.weight": ("attn_k.weight", "self_attn.k_proj.weight"),
    "v.weight": ("attn_v.weight", "self_attn.v_proj.weight"),
    "o.weight": ("attn_output.weight", "self_attn.o_proj.weight"),
    "ffn_norm.weight": ("ffn_norm.weight", "post_attention_layernorm.weight"),
    "gate.weight": ("ffn_gate.weight", "mlp.gate_proj.weight"),
    "up.weight": ("ffn_up.weight", "mlp.up_proj.weight"),
    "down.weight": ("ffn_down.weight", "mlp.down_proj.weight"),
}
FORMATS = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
NAME = "Plait Tales 22M"
DESCRIPTION = "Small Llama-architecture model that tells simple stories in English"


def renamed(name: str) -> tuple[str, str]:
    """(GGUF name, Hugging Face name) of one of network.py's parameters."""
    if name in TOP:
        return TOP[name]
    _, number, rest = name.split(".", 2)
    ours, theirs = LAYER[rest]
    return f"blk.{number}.{ours}", f"model.layers.{number}.{theirs}"


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a q or k projection, from neighbouring pairs to halves: 0 1 2 3 -> 0 2 1 3 in every head."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def add_vocabulary(writer: gguf.GGUFWriter, path: Path, template: str) -> None:
    """Tokens, their types, merges and the special ids, as llama.cpp's `gpt2` tokenizer reads them."""
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    special = len(vocabulary.SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * special + [TokenType.NORMAL] * (len(tokens) - special))
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(vocabulary.DOCUMENT)
    writer.add_eos_token_id(vocabulary.DOCUMENT)
    writer.add_eot_token_id(vocabulary.END)
    writer.add_pad_token_id(vocabulary.DOCUMENT)
    # A prompt is the beginning of a document, and every document of the training texts begins with this token.
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(template)


def write_gguf(saved: dict[str, Any], tokenizer: Path, template: str, out: Path, form: str) -> None:
    """One GGUF file; norms stay f32, as llama.cpp's own converter leaves them."""
    config, (kind, file_type) = saved["config"], FORMATS[form]
    writer = gguf.GGUFWriter(str(out), "llama")
    writer.add_name(NAME)
    writer.add_description(DESCRIPTION)
    writer.add_size_label("22M")
    writer.add_license("cdla-sharing-1.0 and others, see MODEL_CARD.md")
    writer.add_languages(["en"])
    writer.add_context_length(config["context"])
    writer.add_embedding_length(config["width"])
    writer.add_block_count(config["layers"])
    writer.add_feed_forward_length(config["hidden"])
    writer.add_head_count(config["heads"])
    writer.add_head_count_kv(config["kv_heads"])
    writer.add_layer_norm_rms_eps(config["epsilon"])
    writer.add_rope_freq_base(config["theta"])
    writer.add_rope_dimension_count(config["width"] // config["heads"])
    writer.add_vocab_size(config["vocab"])
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_vocabulary(writer, tokenizer, template)
    for name, weight in saved["model"].items():
        values = weight.float().numpy()
        own = kind if values.ndim == 2 else GGMLQuantizationType.F32
        data = gguf.quants.quantize(values, own) if own == GGMLQuantizationType.Q8_0 else values.astype(
            np.float16 if own == GGMLQuantizationType.F16 else np.float32
        )  # fmt: skip
        writer.add_tensor(renamed(name)[0], data, raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_hugging_face(saved: dict[str, Any], tokenizer: Path, template: str, out: Path, bf16: bool) -> None:
    """config.json, tokenizer files and model.safetensors."""
    config = saved["config"]
    out.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, weight in saved["model"].items():
        if name.endswith((".q.weight", ".k.weight")):
            weight = halves(weight, config["heads"] if ".q." in name else config["kv_heads"])
        tensors[renamed(name)[1]] = weight.to(torch.bfloat16 if bf16 else torch.float32).contiguous()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    ends = [vocabulary.DOCUMENT, vocabulary.END]
    described = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": config["width"], "intermediate_size": config["hidden"], "num_hidden_layers": config["layers"],
        "num_attention_heads": config["heads"], "num_key_value_heads": config["kv_heads"],
        "head_dim": config["width"] // config["heads"], "rms_norm_eps": config["epsilon"],
        "rope_theta": config["theta"], "max_position_embeddings": config["context"], "vocab_size": config["vocab"],
        "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": vocabulary.DOCUMENT, "eos_token_id": ends, "torch_dtype": "bfloat16" if bf16 else "float32",
    }  # fmt: skip
    bos = vocabulary.SPECIAL_TOKENS[vocabulary.DOCUMENT]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": bos, "pad_token": bos,
        "add_bos_token": True, "clean_up_tokenization_spaces": False, "model_max_length": config["context"],
        "chat_template": template,
    }  # fmt: skip
    for file, content in (
        ("config.json", described),
        ("generation_config.json", {"bos_token_id": vocabulary.DOCUMENT, "eos_token_id": ends}),
        ("tokenizer_config.json", settings),
    ):
        (out / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_tokenizer_with_bos(tokenizer, out / "tokenizer.json")


def write_tokenizer_with_bos(source: Path, out: Path) -> None:
    """The tokenizer, with a post-processor that begins every text with `<|endoftext|>`, as add_bos_token says."""
    content = json.loads(source.read_text(encoding="utf-8"))
    bos = vocabulary.SPECIAL_TOKENS[vocabulary.DOCUMENT]
    begin = {"SpecialToken": {"id": bos, "type_id": 0}}
    first, second = ({"Sequence": {"id": part, "type_id": 0}} for part in "AB")
    content["post_processor"] = {
        "type": "TemplateProcessing", "single": [begin, first], "pair": [begin, first, second],
        "special_tokens": {bos: {"id": bos, "ids": [vocabulary.DOCUMENT], "tokens": [bos]}},
    }  # fmt: skip
    out.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="what slim.py wrote")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--template", type=Path, default=Path(__file__).parent / "template.jinja")
    parser.add_argument("--gguf", type=Path, help="GGUF file to write")
    parser.add_argument("--format", choices=FORMATS, default="q8_0")
    parser.add_argument("--hf", type=Path, help="Hugging Face directory to write")
    parser.add_argument("--bf16", action="store_true", help="bf16 instead of f32 in that directory")
    args = parser.parse_args()
    saved = torch.load(args.weights, map_location="cpu", weights_only=True)
    # Newlines are only the file's layout; the template's own text has none.
    template = args.template.read_text(encoding="utf-8").strip()
    if args.gguf:
        write_gguf(saved, args.tokenizer, template, args.gguf, args.format)
        print(f"{args.gguf}: {args.gguf.stat().st_size:,} bytes")
    if args.hf:
        write_hugging_face(saved, args.tokenizer, template, args.hf, args.bf16)


if __name__ == "__main__":
    main()
