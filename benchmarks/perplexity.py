"""Perplexity on the CPU kernels, and with the same weights dequantised to float32: what the integer products cost.

    python benchmarks/perplexity.py [MODEL] [--text FILE] [--tokens 3000] [--formats all] [--save NAME]

Without --formats the model is measured as it is; with them its matrices are rounded to each format first (see
requantise.py). Without --text the model's own continuations of a few beginnings, drawn with a fixed seed, are the text.
Sequences of 256 tokens each, the first one given.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cpu_step import PAGE, step
from requantise import FORMATS, dequantised, requantised

from plait import LLM, Model, SamplingParams
from plait.formats.hub import resolve_model
from plait.formats.open import open_model
from plait.formats.tensor import ModelSource
from plait.models.registry import load_model
from plait.ops.api import KVConfig
from plait.ops.cpu import CpuBackend

SEQUENCE = 256
RESULTS = Path(__file__).resolve().parent / "results"
BEGINNINGS = ("Once upon a time", "One day, a little girl", "The old man", "There was a big dog", '"Look!" said Tom.')


@dataclass(frozen=True)
class Measured:
    """Perplexities of one model, and the first over the second less 1."""

    format: str
    kernels: float
    float32: float

    @property
    def difference(self) -> float:
        return self.kernels / self.float32 - 1


def perplexity(source: ModelSource, sequences: Sequence[Sequence[int]], threads: int | None = None) -> float:
    """exp of the mean surprise, in nats, of every token but each sequence's first."""
    kv = KVConfig(PAGE, (2 + max(map(len, sequences)) // PAGE,), "f16")
    executable = CpuBackend(threads).compile(load_model(source).program, kv)
    total, count = 0.0, 0
    for tokens in sequences:
        rows = len(tokens) - 1
        inputs = replace(
            step(1, 0, rows),
            tokens=np.asarray(tokens[:-1], np.int32),
            out_rows=np.arange(rows, dtype=np.int32),
        )
        logits = executable.run(inputs).astype(np.float64)
        total += float((np.logaddexp.reduce(logits, axis=1) - logits[np.arange(rows), np.asarray(tokens[1:])]).sum())
        count += rows
    return math.exp(total / count)


def measure(
    source: ModelSource, name: str | None, sequences: Sequence[Sequence[int]], threads: int | None = None
) -> Measured:
    """The model as it is (`name` None), or with its matrices in format `name`."""
    model = source if name is None else requantised(source, name)
    kernels = perplexity(model, sequences, threads)
    return Measured(name or "as it is", kernels, perplexity(dequantised(model), sequences, threads))


def own_text(model: Model, tokens: int) -> list[list[int]]:
    """Continuations by the model itself, as many as make up `tokens`."""
    wanted = -(-tokens // SEQUENCE)
    prompts = [BEGINNINGS[i % len(BEGINNINGS)] for i in range(wanted)]
    params = [SamplingParams(max_tokens=SEQUENCE - 16, seed=i, ignore_eos=True) for i in range(wanted)]
    with LLM(model, n_ctx=2 * SEQUENCE) as llm:
        done = llm.generate(prompts, params)
    return [[*one.prompt_token_ids, *one.samples[0].token_ids] for one in done]


def text_tokens(model: Model, text: str, tokens: int) -> list[list[int]]:
    """The text's first tokens, cut into sequences."""
    ids = model.tokenizer.encode(text[: 12 * tokens])[:tokens]
    return [ids[at : at + SEQUENCE] for at in range(0, len(ids) - 1, SEQUENCE)]


def table(results: Sequence[Measured]) -> str:
    lines = ["| format | perplexity | with float32 products | difference |", "|---|---|---|---|"]
    lines += [f"| {r.format} | {r.kernels:.5f} | {r.float32:.5f} | {r.difference:+.3%} |" for r in results]
    return "\n".join(lines) + "\n"


def save(name: str, facts: dict[str, object], results: Sequence[Measured]) -> None:
    rows = [{"format": r.format, "kernels": r.kernels, "float32": r.float32} for r in results]
    (RESULTS / f"{name}.json").write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")
    about = ", ".join(f"{key} {value}" for key, value in facts.items())
    (RESULTS / f"{name}.md").write_text(f"# Perplexity\n\nbenchmarks/perplexity.py: {about}\n\n{table(results)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", help="a model file; without it the bundled model")
    parser.add_argument("--text", type=Path, help="a text file")
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--formats", nargs="*", help="round the matrices to these first; all is every format")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--save", metavar="NAME", help="keep the table as results/NAME.json and .md")
    args = parser.parse_args()
    path = resolve_model(args.model)
    source, model = open_model(path), Model.load(path)
    if args.text is None:
        sequences = own_text(model, args.tokens)
    else:
        sequences = text_tokens(model, args.text.read_text(encoding="utf-8"), args.tokens)
    formats = list(FORMATS) if args.formats == ["all"] else args.formats or [None]
    results = []
    for name in formats:
        results.append(measure(source, name, sequences, args.threads))
        print(table(results[-1:]).splitlines()[-1], flush=True)
    if args.save:
        text = "the model's own" if args.text is None else args.text.name
        save(args.save, {"model": path.name, "tokens": sum(map(len, sequences)), "text": text}, results)


if __name__ == "__main__":
    main()
