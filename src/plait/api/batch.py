"""A batch of tokens, each with its own position, sequences and logits flag; llama.cpp's `llama_batch`.

Knows nothing of memory or models: it is a list with a drawing of its attention mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class BatchToken:
    """One token of a batch. It attends to the keys of `seq_ids[0]`, and is stored for all of `seq_ids`."""

    token: int
    pos: int
    seq_ids: tuple[int, ...]
    logits: bool


class Batch:
    """Tokens to decode in one step, in the order they were added."""

    def __init__(self) -> None:
        self._tokens: list[BatchToken] = []

    def add(self, token: int, pos: int, seq_ids: Sequence[int], logits: bool = False) -> int:
        """Append a token; returns its index in the batch, by which `Context.logits` finds its logits."""
        self._tokens.append(BatchToken(int(token), int(pos), tuple(int(s) for s in seq_ids), bool(logits)))
        return len(self._tokens) - 1

    def want_logits(self, index: int = -1) -> None:
        """Ask for the logits of one token already added. Raises `IndexError` where there is none."""
        old = self._tokens[index]
        self._tokens[index] = BatchToken(old.token, old.pos, old.seq_ids, True)

    def clear(self) -> None:
        self._tokens.clear()

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> BatchToken:
        return self._tokens[index]

    def __iter__(self) -> Iterator[BatchToken]:
        return iter(self._tokens)

    def mask(self) -> npt.NDArray[np.bool_]:
        """Who attends to whom within the batch: bool, (n, n); [i, j] says that token i sees token j's key.

        It follows from ids and positions alone: j is stored for i's first sequence, at a position not after i's. Keys
        that the sequences hold from earlier batches are seen as well, and not shown here.
        """
        n = len(self._tokens)
        seen = np.zeros((n, n), dtype=np.bool_)
        for i, query in enumerate(self._tokens):
            for j, key in enumerate(self._tokens):
                seen[i, j] = bool(query.seq_ids) and query.seq_ids[0] in key.seq_ids and key.pos <= query.pos
        return seen
