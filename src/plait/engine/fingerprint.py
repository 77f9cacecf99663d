"""What saved KV memory depends on, in one place: two engines with equal fingerprints may exchange it bit for bit.

Knows a loaded model and its recorded program; knows no files of saved memory and no pages. The SIMD path is no part of
it, since all paths give the same bits (decisions 8, 10 and 14), nor is the page size, since slots are saved in the
order of their tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass

from plait.formats.mapped import give_back
from plait.formats.random import RANDOM
from plait.models.registry import LoadedModel
from plait.ops.api import Program, RopeAndStore, Weight
from plait.ops.program import program_weights

NUMERICS_VERSION = 1
"""To be raised with every change of a kernel or of the recorded ops that changes bits of K or V."""
SAMPLES = 8
SAMPLE_BYTES = 64
"""Of each tensor so many stretches of so many bytes count: reading all of a model would take as long as loading it."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Each field by itself, so that a message can name the one that differs. `adapter` is empty: there are none yet."""

    model: str
    tokenizer: str
    kv_type: str
    numerics: str
    rope: str
    adapter: str = ""

    def __str__(self) -> str:
        return _digest(*(getattr(self, name) for name in self.names()))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))

    def differences(self, other: Fingerprint) -> list[str]:
        """The fields that are not equal, by name."""
        return [name for name in self.names() if getattr(self, name) != getattr(other, name)]


def fingerprint(loaded: LoadedModel, kv_type: str, backend: str, tokenizer: str = "") -> Fingerprint:
    """`backend` is the kernel library's name, `tokenizer` the tokenizer's own fingerprint (empty: there is none)."""
    return Fingerprint(
        model=_model(loaded.program),
        tokenizer=tokenizer,
        kv_type=kv_type,
        numerics=f"{backend}-{NUMERICS_VERSION}",
        rope=_digest(*(repr((op.layer, op.rope)) for op in loaded.program.instructions if type(op) is RopeAndStore)),
    )


def _model(program: Program) -> str:
    """The instructions with their numbers, and of each tensor its name, shape, format, size and some of its bytes."""
    sha = hashlib.sha256(repr((program.kv, program.n_heads)).encode())
    for instruction in program.instructions:
        sha.update("\0".join(_facts(instruction)).encode())
    for weight in program_weights(program):
        sha.update(repr((weight.name, weight.shape, weight.format, weight.tensor.nbytes)).encode())
        if weight.format == RANDOM:  # drawn from its name
            continue
        data = weight.tensor.raw().reshape(-1).view("u1")
        last = max(len(data) - SAMPLE_BYTES, 0)
        for number in range(SAMPLES):
            start = last * number // (SAMPLES - 1)
            sha.update(data[start : start + SAMPLE_BYTES].tobytes())
        give_back(data)
    return sha.hexdigest()


def _facts(value: object) -> Iterator[str]:
    """What an instruction says, its weights by name."""
    if isinstance(value, Weight):
        yield value.name
    elif isinstance(value, tuple):
        for item in value:
            yield from _facts(item)
    elif is_dataclass(value):
        yield type(value).__name__
        for field in fields(value):
            yield from _facts(getattr(value, field.name))
    else:
        yield repr(value)


def _digest(*texts: str) -> str:
    return hashlib.sha256(repr(texts).encode()).hexdigest()
