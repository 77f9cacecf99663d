"""Held-out perplexity, and samples that nobody picked: fixed prompts, seeds 0, 1, 2 ..."""

from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from batches import Pools
from network import Model, ModelConfig
from tokenizer import ASSISTANT, DOCUMENT, END, USER
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional


def load(path: Path) -> Model:
    """A model from slim.py's file, in float32."""
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    model = Model(ModelConfig(**saved["config"]))
    model.load_state_dict({name: weight.float() for name, weight in saved["model"].items()})
    model.eval()
    return model


@torch.no_grad()
def perplexities(model: Model, pools: Pools, length: int, limit: int) -> dict[str, tuple[float, int]]:
    """Pool -> (perplexity a token, tokens counted), in windows of `length` that do not see each other."""
    result = {}
    for name in pools.names:
        ids, targets = pools.in_order(name, length, limit)
        total, count = 0.0, 0
        for row, wanted in zip(ids, targets, strict=True):
            logits = model.logits(row[None])[0]
            total += float(functional.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum"))
            count += int((wanted >= 0).sum())
        result[name] = (math.exp(total / count), count)
    return result


@torch.no_grad()
def by_document(model: Model, pools: Pools, name: str, context: int) -> tuple[float, int]:
    """Perplexity with every document alone and from its own beginning (its ending token counted)."""
    pool = pools.names.index(name)
    base, openings = int(pools.bases[pool]), [*pools.openings[pool], pools.sizes[pool]]
    total, count = 0.0, 0
    for start, end in pairwise(openings):
        ids = (pools.tokens[base + start : base + end] & 0x7FFF).long()[:context]
        wanted = torch.cat((ids[1:], torch.tensor([DOCUMENT])))
        total += float(functional.cross_entropy(model.logits(ids[None])[0], wanted, reduction="sum"))
        count += len(ids)
    return math.exp(total / count), count


@torch.no_grad()
def sample(model: Model, prompt: list[int], seed: int, tokens: int, temperature: float, top_p: float) -> list[int]:
    """Draws a continuation until an end token; recomputes everything each step, which is plain and slow."""
    random = torch.Generator().manual_seed(seed)
    ids = list(prompt)
    for _ in range(tokens):
        logits: Tensor = functional.linear(model(torch.tensor([ids]))[0, -1], model.embedding.weight)
        chances, order = (logits / temperature).softmax(-1).sort(descending=True)
        chances[chances.cumsum(-1) - chances > top_p] = 0.0
        chosen = int(order[torch.multinomial(chances / chances.sum(), 1, generator=random)])
        if chosen in (DOCUMENT, END):
            break
        ids.append(chosen)
    return ids[len(prompt) :]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="what slim.py wrote")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="held-out pools to measure")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--limit", type=int, default=64, help="windows a pool")
    parser.add_argument("--prompt", action="append", default=[], help="beginning of a document; may be given again")
    parser.add_argument("--chat", action="append", default=[], help="what a user says; may be given again")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.95)
    args = parser.parse_args()
    model = load(args.weights)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    if args.data:
        pools = Pools(args.data, "held", torch.device("cpu"))
        values = perplexities(model, pools, args.length, args.limit)
        values["validation, by document"] = by_document(model, pools, "validation", 2048)
        print(json.dumps({name: {"perplexity": round(p, 3), "tokens": n} for name, (p, n) in values.items()}, indent=1))
    plain = [(text, [DOCUMENT, *tokenizer.encode(text, add_special_tokens=False).ids]) for text in args.prompt]
    said = [
        (text, [DOCUMENT, USER, *tokenizer.encode(text, add_special_tokens=False).ids, END, ASSISTANT])
        for text in args.chat
    ]
    for text, ids in plain + said:
        for seed in range(args.samples):
            drawn = sample(model, ids, seed, args.tokens, args.temperature, args.top_p)
            print(f"=== {text!r}, seed {seed}\n{tokenizer.decode(drawn)}\n", flush=True)


if __name__ == "__main__":
    main()
