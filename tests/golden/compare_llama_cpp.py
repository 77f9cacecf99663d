"""Compares the tiny models of every family, as float32 GGUF, with llama.cpp, and prints a table.

Needs llama-cpp-python and gguf:

    PYTHONPATH=src:tests python tests/golden/compare_llama_cpp.py > benchmarks/results/DATE-llama-cpp-parity.md
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np

from plait.formats.open import open_model
from plait.formats.tensor import F32Array
from plait.models.registry import load_model
from plait.ops.api import KVConfig
from plait.ops.reference import ReferenceBackend
from support.steps import Chunk, Driver
from support.tiny_gguf import gguf_architecture, save_gguf
from support.tiny_models import GGUF_ARCHITECTURES, HF_ONLY, PROMPTS, TinyModel, tiny_models

PROMPT = PROMPTS["a"]
CONTEXT = 128
GELU = "llama.cpp takes GELU from a table in half precision, and its tanh form"
NOTES = {
    "mistral": "llama.cpp ignores the window of llama files (decision 3)",
    "phi3-window": "llama.cpp switches Phi-3's window off",
    "exaone4-window": "llama.cpp has a window only where there are 64 layers",
    "command-r-plus": "llama.cpp looks for the norms of q and k only where there are 64 layers",
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "phi", "starcoder2", "falcon-7b", "falcon-40b", "falcon-11b", "gpt2",
                     "gpt-neox", "gpt-neox-serial", "mpt", "mpt-clip"), GELU),
}  # fmt: skip
HEAD = """# Beside llama.cpp

Logits of tiny random models in float32 GGUF files, over a prompt of {n} tokens: the largest difference between Plait's
reference backend and llama.cpp, as a share of the largest logit. Made by `tests/golden/compare_llama_cpp.py` with
llama-cpp-python {version}.

| model | architecture | difference | remark |
|---|---|---|---|"""


def plait_logits(path: Path) -> F32Array:
    model = load_model(open_model(path), CONTEXT)
    kv = KVConfig(16, (16,) * len(model.kv.groups), "f32")
    driver = Driver(ReferenceBackend().compile(model.program, kv), kv)
    return driver.step({"a": Chunk.every(PROMPT)})["a"]


def llama_cpp_logits(path: Path, vocab: int) -> F32Array | None:
    """None: llama.cpp does not load the file."""
    try:
        model = llama_cpp.Llama(str(path), n_ctx=CONTEXT, logits_all=True, type_k=0, type_v=0, n_threads=1,
                                flash_attn=False, swa_full=True, verbose=False)  # fmt: skip
    except (ValueError, TypeError):
        return None
    model.eval(list(PROMPT))
    logits: F32Array = np.array(model.scores[: len(PROMPT), :vocab], np.float32)
    model.close()
    return logits


def row(tiny: TinyModel, directory: Path) -> str:
    path = save_gguf(tiny, directory / f"{tiny.name}.gguf")
    ours, theirs = plait_logits(path), llama_cpp_logits(path, tiny.config["vocab_size"])
    difference = "not loaded" if theirs is None else f"{np.abs(ours - theirs).max() / np.abs(theirs).max():.1e}"
    return f"| {tiny.name} | {gguf_architecture(tiny)} | {difference} | {NOTES.get(tiny.name, '')} |"


def main() -> None:
    only = sys.argv[1:]
    print(HEAD.format(n=len(PROMPT), version=llama_cpp.__version__))
    with tempfile.TemporaryDirectory() as directory:
        for name, tiny in tiny_models().items():
            if name not in HF_ONLY and tiny.architecture in GGUF_ARCHITECTURES and (not only or name in only):
                print(row(tiny, Path(directory)), flush=True)
    os._exit(0)  # llama-cpp-python's destructors fail at exit


if __name__ == "__main__":
    main()
