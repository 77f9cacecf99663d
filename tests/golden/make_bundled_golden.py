"""Makes bundled_llama_cpp.npz: llama.cpp's answers on the bundled model, rounded to float16 weights.

Needs llama-cpp-python and gguf (made with llama-cpp-python 0.3.36, that is llama.cpp of October 2026, its CPU backend,
one thread, F32 KV memory, flash attention off). From the repository:

    PYTHONPATH=src:tests python tests/golden/make_bundled_golden.py

For each prompt of support.bundled: its token ids, llama.cpp's logits after the last of them, and the 32 tokens it goes
on with greedily. The logits are kept as float32, so that only llama.cpp's own rounding is in them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import llama_cpp
import numpy as np

from support.bundled import PROMPTS, write_f16

NEW_TOKENS = 32


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = write_f16(Path(folder) / "f16.gguf")
        model = llama_cpp.Llama(
            str(path), n_ctx=256, n_threads=1, logits_all=False, verbose=False, flash_attn=False,
            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
        )  # fmt: skip
        for i, prompt in enumerate(PROMPTS):
            ids = model.tokenize(prompt.encode(), add_bos=True, special=True)
            model.reset()
            model.eval(ids)
            logits = np.array(llama_cpp.llama_get_logits_ith(model.ctx, -1)[: model.n_vocab()], np.float32)
            greedy = []
            token = int(logits.argmax())
            while len(greedy) < NEW_TOKENS:
                greedy.append(token)
                model.eval([token])
                token = int(np.argmax(llama_cpp.llama_get_logits_ith(model.ctx, -1)[: model.n_vocab()]))
            arrays |= {
                f"ids{i}": np.array(ids, np.int32),
                f"logits{i}": logits,
                f"greedy{i}": np.array(greedy, np.int32),
            }
    np.savez_compressed(Path(__file__).with_name("bundled_llama_cpp.npz"), **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
