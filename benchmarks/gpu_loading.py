"""Reading safetensors onto the GPU: GB/s from the page cache, with one thread and with as many as the backend takes.

    PYTHONPATH=src python benchmarks/gpu_loading.py [--smoke] [--shards 4]

Writes a checkpoint of the 8B shape (16 GB, into the folder for temporary files) with random weights in bf16, as Hugging
Face has them, which also brings it into the page cache; every matrix is then compared with what was written.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from gpu_shapes import LLAMA_8B, SMALL, write_model
from safetensors.torch import save_file

from gpu import header
from plait.formats.open import open_model
from plait.models.registry import load_model
from plait.ops.cuda import weights
from plait.ops.program import program_weights


def tensors_of(shape: dict[str, object]) -> dict[str, tuple[int, ...]]:
    width, inner, vocabulary = (int(str(shape[k])) for k in ("hidden_size", "intermediate_size", "vocab_size"))
    heads, kv_heads, dim = (int(str(shape[k])) for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(int(str(shape["num_hidden_layers"]))):
        at = f"model.layers.{layer}"
        found |= {
            f"{at}.self_attn.q_proj.weight": (heads * dim, width),
            f"{at}.self_attn.o_proj.weight": (width, heads * dim),
            f"{at}.self_attn.k_proj.weight": (kv_heads * dim, width), f"{at}.mlp.down_proj.weight": (width, inner),
            f"{at}.self_attn.v_proj.weight": (kv_heads * dim, width), f"{at}.mlp.gate_proj.weight": (inner, width),
            f"{at}.mlp.up_proj.weight": (inner, width), f"{at}.input_layernorm.weight": (width,),
            f"{at}.post_attention_layernorm.weight": (width,),
        }  # fmt: skip
    return found | {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def write(folder: Path, shape: dict[str, object], shards: int) -> None:
    names = list(tensors_of(shape).items())
    index: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        made = {
            name: torch.randn(size, dtype=torch.bfloat16, device="cuda").cpu() for name, size in names[shard::shards]
        }
        save_file(made, folder / file)
        index |= dict.fromkeys(made, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def load(folder: Path, threads: int, check: bool) -> float:
    """GB/s."""
    program = load_model(open_model(folder)).program
    weights.THREADS = threads
    torch.cuda.synchronize()
    start = time.perf_counter()
    loaded = weights.load_weights(program, torch.device("cuda"), torch.bfloat16)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    parts = program_weights(program)
    if check:
        for weight in parts:
            raw = torch.from_numpy(weight.tensor.raw().copy()).view(torch.bfloat16).view(weight.shape)
            assert torch.equal(loaded.each[id(weight.tensor)].bfloat16(), raw.cuda()), weight.tensor.name
    return sum(weight.tensor.nbytes for weight in parts) / seconds / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a small shape")
    parser.add_argument("--shards", type=int, default=4)
    args = parser.parse_args()
    shape = SMALL if args.smoke else LLAMA_8B
    print(header())
    taken = weights.THREADS
    with tempfile.TemporaryDirectory() as name:
        folder = write_model(Path(name), shape)
        write(folder, shape, args.shards)
        for turn in range(3):
            for threads in (1, taken):
                rate = load(folder, threads, turn == 0)
                print(f"{threads} threads: {rate:.1f} GB/s", flush=True)


if __name__ == "__main__":
    main()
