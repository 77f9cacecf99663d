"""Writes tests/golden/bundled_f32_tokens.json: what the CPU backend, on the bundled model's weights as float32, answers
greedily to 20 prompts, and by how much each token's logit was ahead of the next.

    PYTHONPATH=src:tests python tests/golden/make_gpu_golden.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from plait.formats.hub import resolve_model
from plait.formats.open import open_model
from plait.models.registry import load_model
from plait.ops.api import KVConfig
from plait.ops.cpu.backend import CpuBackend
from plait.tokenizer import Tokenizer
from support.bundled import write_floats
from support.steps import Chunk, Driver

TARGET = Path(__file__).with_name("bundled_f32_tokens.json")
TOKENS, PAGE = 256, 16
STARTS = ("Once upon a time", "One day, a small", "The old", "Lily and Tom", "In a dark forest")
THINGS = ("dog", "boat", "queen", "cloud")


def main() -> None:
    source = open_model(resolve_model(None))
    tokenizer = Tokenizer.from_source(source)
    prompts = [list(tokenizer.encode(f"{start} {thing}")) for start in STARTS for thing in THINGS]
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(open_model(write_floats(Path(folder) / "f32.gguf", np.float32)))
        config = KVConfig(PAGE, (20 * (TOKENS + 64) // PAGE + 1,), "f32")
        driver = Driver(CpuBackend(2).compile(model.program, config), config)
        chunks = {str(i): Chunk.last(prompt) for i, prompt in enumerate(prompts)}
        tokens: list[list[int]] = [[] for _ in prompts]
        leads: list[list[float]] = [[] for _ in prompts]
        for _ in range(TOKENS):
            logits = np.concatenate(list(driver.step(chunks).values()))
            best = logits.argmax(1)
            top = -np.partition(-logits, 1)[:, :2]
            for i, token in enumerate(best.tolist()):
                tokens[i].append(token)
                leads[i].append(round(float(top[i, 0] - top[i, 1]), 4))
            chunks = {str(i): Chunk.last([token]) for i, token in enumerate(best.tolist())}
    TARGET.write_text(json.dumps({"prompts": prompts, "tokens": tokens, "leads": leads}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
