"""Requests as a trace tells of them: when, from whom, how long, and what they share. Reads two public formats.

Knows no engine. A prompt is named by its parts, not its text: equal parts at equal places are equal tokens.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from plait.errors import OptionError
from plait.types import TokenId

Part: TypeAlias = tuple[int, int]
"""(name, tokens). `ANSWER` names what the model answers at that place of a sequence."""
ANSWER = -1
ANSWER_BASE = 1 << 30
MOONCAKE_BLOCK = 512
"""Tokens that one entry of `hash_ids` stands for."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request: seconds from the trace's start, whose it is, its prompt and the tokens of its answer."""

    at_s: float
    tenant: str
    prompt: tuple[Part, ...]
    output_tokens: int

    @property
    def prompt_tokens(self) -> int:
        return sum(count for _, count in self.prompt)

    def tokens(self) -> tuple[TokenId, ...]:
        """The prompt's token ids."""
        ids: tuple[TokenId, ...] = ()
        for name, count in self.prompt:
            ids += answer_tokens(len(ids), count) if name == ANSWER else (name,) * count
        return ids


def answer_tokens(position: int, count: int) -> tuple[TokenId, ...]:
    """What the simulated model answers: its token at a place depends on the place alone, and never repeats."""
    return tuple(range(ANSWER_BASE + position, ANSWER_BASE + position + count))


def read_mooncake(path: Path) -> Iterator[TraceRequest]:
    """Mooncake's traces: a JSON object a line with `timestamp` (ms), `input_length`, `output_length` and `hash_ids`,
    one for each 512 tokens of the prompt. A hash stands for its block and all before it. One tenant.

    Raises `OptionError` that names the line for one that is not like that.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield _mooncake(json.loads(line))
                except (ValueError, TypeError, KeyError) as error:
                    raise OptionError(
                        f"{path}, line {number} is not a request of a Mooncake trace: {error!r}"
                    ) from None


def _mooncake(entry: dict[str, object]) -> TraceRequest:
    hashes, length, output = entry["hash_ids"], _count(entry["input_length"]), _count(entry["output_length"])
    if not isinstance(hashes, list):
        raise TypeError("hash_ids is not a list")
    parts: list[Part] = []
    left = length
    for name in hashes[: -(-length // MOONCAKE_BLOCK)]:
        parts.append((_count(name), min(left, MOONCAKE_BLOCK)))
        left -= parts[-1][1]
    if left:
        raise ValueError(f"{len(hashes)} hash_ids are too few for {length} tokens")
    return TraceRequest(_count(entry["timestamp"]) / 1000, "", tuple(parts), output)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def read_burstgpt(path: Path) -> Iterator[TraceRequest]:
    """BurstGPT's traces: CSV with the columns Timestamp (s), Model, Request tokens, Response tokens, Total tokens and
    Log Type. Requests that failed (no response tokens) are left out; nothing is shared; a tenant is a model with a log
    type.

    Raises `OptionError` for a file without these columns, or that names the line for one without numbers.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        missing = {"Timestamp", "Model", "Request tokens", "Response tokens", "Log Type"} - set(rows.fieldnames or ())
        if missing:
            raise OptionError(f"{path} is not a BurstGPT trace: it has no column {', '.join(sorted(missing))}")
        for number, row in enumerate(rows, 2):
            try:
                at_s, prompt, output = float(row["Timestamp"]), int(row["Request tokens"]), int(row["Response tokens"])
            except (ValueError, TypeError) as error:
                raise OptionError(f"{path}, line {number} is not a request of a BurstGPT trace: {error}") from None
            if output > 0 and prompt > 0:
                yield TraceRequest(at_s, f"{row['Model']}, {row['Log Type']}", ((number, prompt),), output)


READERS = {".jsonl": read_mooncake, ".csv": read_burstgpt}


def read_trace(path: Path) -> Iterator[TraceRequest]:
    """A trace in the format that its suffix names. Raises `OptionError` for another suffix."""
    if path.suffix not in READERS:
        raise OptionError(f"{path} is no trace: give one that ends in {' (Mooncake) or '.join(READERS)} (BurstGPT)")
    return READERS[path.suffix](path)


def fitted(
    requests: Iterable[TraceRequest], *, context: int, speed: float = 1.0, most: int | None = None
) -> Iterator[TraceRequest]:
    """The first `most` requests, `speed` times as fast; those that do not fit into `context` tokens are left out."""
    fitting = (r for r in requests if 0 < r.prompt_tokens <= context - r.output_tokens)
    for request in islice(fitting, most):
        yield replace(request, at_s=request.at_s / speed)
