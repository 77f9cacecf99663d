"""Compares tiny random Llama models in the types of few bits with llama.cpp, and prints a table.

Both round rows to 8 bits before products with quantised weights. Needs llama-cpp-python and gguf:

    PYTHONPATH=src:tests python tests/golden/compare_llama_cpp_types.py > benchmarks/results/DATE-llama-cpp-types.md
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from plait.formats.open import open_model
from plait.formats.tensor import F32Array
from plait.models.registry import load_model
from plait.ops.api import Backend, KVConfig
from plait.ops.cpu import CpuBackend
from plait.ops.reference import ReferenceBackend
from support.steps import Chunk, Driver
from support.tensors import FEW_BITS, MemorySource, in_blocks
from support.tiny_llama import TinyLlama

TINY = TinyLlama(d_model=256, ff=512, head_dim=32, n_heads=8, n_layers=1)
PROMPT = (1, 5, 9, 2, 7, 3, 11, 4)
HEAD = """# Types of few bits beside llama.cpp

Logits of a tiny random Llama model in each type, over a prompt of {n} tokens: norms of differences as shares of
the norm. float32 is Plait's reference backend, which rounds no rows; the other two round them to 8 bits. Made by
`tests/golden/compare_llama_cpp_types.py` with llama-cpp-python {version}.
"""


def save(source: MemorySource, path: Path) -> None:
    metadata = dict(source.metadata)
    writer = GGUFWriter(path, str(metadata.pop("general.architecture")))
    for key, value in metadata.items():
        if isinstance(value, bool | int):
            writer.add_uint32(key, int(value))
        elif isinstance(value, float):
            writer.add_float32(key, value)
    writer.add_string("tokenizer.ggml.model", "no_vocab")
    for name, tensor in source.tensors.items():
        if tensor.format == "F32":
            writer.add_tensor(name, tensor.numpy())
        else:
            writer.add_tensor(name, np.array(tensor.raw()), raw_dtype=GGMLQuantizationType[tensor.format])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def plait_logits(path: Path, backend: Backend) -> F32Array:
    model = load_model(open_model(path), 64)
    kv = KVConfig(16, (16,) * len(model.kv.groups), "f32")
    return np.array(Driver(backend.compile(model.program, kv), kv).step({"a": Chunk.every(PROMPT)})["a"])


def llama_cpp_logits(path: Path, vocab: int) -> F32Array:
    model = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, type_k=0, type_v=0, n_threads=1, flash_attn=False,
                            verbose=False)  # fmt: skip
    model.eval(list(PROMPT))
    logits: F32Array = np.array(model.scores[: len(PROMPT), :vocab], np.float32)
    model.close()
    return logits


def share(a: F32Array, b: F32Array) -> str:
    return f"{np.linalg.norm(a - b) / np.linalg.norm(b):.1e}"


def main() -> None:
    print(HEAD.format(n=len(PROMPT), version=llama_cpp.__version__))
    print("| type | CPU to float32 | llama.cpp to float32 | CPU to llama.cpp |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        for name in sys.argv[1:] or FEW_BITS:
            path = Path(directory) / f"{name}.gguf"
            save(in_blocks(TINY.source("gguf"), name), path)
            exact, ours = plait_logits(path, ReferenceBackend()), plait_logits(path, CpuBackend(1))
            theirs = llama_cpp_logits(path, TINY.vocab)
            print(f"| {name} | {share(ours, exact)} | {share(theirs, exact)} | {share(ours, theirs)} |", flush=True)
    os._exit(0)  # llama-cpp-python's destructors fail at exit


if __name__ == "__main__":
    main()
