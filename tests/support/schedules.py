"""Ways to run the same prompts: whole, in chunks side by side, token by token with others joining."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from plait.formats.tensor import F32Array
from support.steps import Chunk, Driver

Prompts: TypeAlias = Mapping[str, tuple[int, ...]]
Logits: TypeAlias = Mapping[str, F32Array]
Schedule: TypeAlias = Callable[[Driver, Prompts], Logits]


def whole(driver: Driver, prompts: Prompts) -> Logits:
    """One prompt after another, each in one step."""
    return {name: driver.step({name: Chunk.every(prompt)})[name] for name, prompt in prompts.items()}


def chunked(driver: Driver, prompts: Prompts) -> Logits:
    """Chunks of five, all sequences in one step while they last."""
    parts: dict[str, list[F32Array]] = {name: [] for name in prompts}
    for start in range(0, max(map(len, prompts.values())), 5):
        chunks = {n: Chunk.every(prompt[start : start + 5]) for n, prompt in prompts.items() if start < len(prompt)}
        for name, logits in driver.step(chunks).items():
            parts[name].append(logits)
    return {name: np.concatenate(each) for name, each in parts.items()}


def decoded(driver: Driver, prompts: Prompts) -> Logits:
    """The prompts "a", "b" and "c", one token at a time; the second joins late, so that its prompt shares a step with
    decoding rows."""
    parts: dict[str, list[F32Array]] = {name: [] for name in prompts}
    for i, token in enumerate(prompts["a"]):
        chunks = {"a": Chunk.every([token])}
        if i == 9:
            chunks["b"] = Chunk.every(prompts["b"][:11])
        if 9 < i < 16:
            chunks["b"] = Chunk.every([prompts["b"][i + 1]])
        if i == 20:
            chunks["c"] = Chunk.every(prompts["c"])
        for name, logits in driver.step(chunks).items():
            parts[name].append(logits)
    return {name: np.concatenate(each) for name, each in parts.items()}
