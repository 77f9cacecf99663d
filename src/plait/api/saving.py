"""A sequence's KV memory to a file and back. Knows pages, a program's memory and the file; decodes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from plait.cache.edits import GroupEdits
from plait.cache.kv import KVCache
from plait.engine.fingerprint import Fingerprint
from plait.engine.kvfile import SavedKV, read_kv, write_kv
from plait.engine.packing import only_edits
from plait.errors import KVFileError, OutOfPagesError, RequestError
from plait.ops.api import Executable, I32Array

LOADING = 2**31 - 1
"""The sequence that a file is read into before it gets its own id."""


class SlotTokens:
    """The token in each slot of the first KV group: page tables say which slots are a sequence's, not what it says."""

    def __init__(self, num_slots: int) -> None:
        self._tokens = np.zeros(num_slots, np.int32)

    def copied(self, edits: GroupEdits) -> None:
        """These edits are done."""
        for source, target, count in edits.copies:
            self._tokens[target : target + count] = self._tokens[source : source + count]

    def store(self, slots: I32Array, tokens: I32Array) -> None:
        self._tokens[slots] = tokens

    def read(self, slots: I32Array) -> tuple[int, ...]:
        return tuple(self._tokens[slots].tolist())


class SequenceFiles:
    """Saves and loads sequences of one context. `context_length` bounds the positions."""

    def __init__(
        self,
        cache: KVCache,
        executable: Executable,
        tokens: SlotTokens,
        mark: Fingerprint,
        context_length: int,
    ) -> None:
        self._cache, self._executable, self._tokens, self._mark = cache, executable, tokens, mark
        self._context_length = context_length
        self._groups = range(len(cache.config.num_pages))

    def save(self, seq: int, path: Path) -> int:
        """Write sequence `seq` to `path`; returns the size of the file in bytes. See `Context.save_sequence`."""
        positions = self._cache.positions(seq)
        if not positions:
            raise RequestError(f"sequence {seq} is empty; there is nothing to save")
        do_edits(self._cache, self._executable, self._tokens)
        slots = [self._slots(seq, group) for group in self._groups]
        data = tuple(self._executable.read_slots(group, slots[group]) for group in self._groups)
        saved = SavedKV(self._tokens.read(slots[0]), tuple(positions), data)
        try:
            return write_kv(path, self._mark, saved)
        except OSError as error:
            raise RequestError(f"{path}: cannot be written: {error.strerror or error}") from None

    def load(self, path: Path, seq: int) -> int:
        """Put what `path` holds in the place of sequence `seq`; returns its tokens. See `Context.load_sequence`."""
        try:
            saved = read_kv(path, self._mark)
        except OSError as error:
            raise KVFileError(path, f"cannot be read: {error.strerror or error}") from None
        last = max(saved.positions, default=-1)
        if last >= self._context_length or len(saved.groups) != len(self._groups):
            raise KVFileError(path, f"reaches position {last}; the context has {self._context_length} (n_ctx)")
        do_edits(self._cache, self._executable, self._tokens)
        slots = self._cache.restore(LOADING, saved.positions)
        if slots is None:
            raise OutOfPagesError(
                f"{path}: there is no room for its {len(saved.tokens)} tokens; free some with memory.seq_rm, or make "
                "the KV memory larger (kv_tokens)"
            )
        try:
            for group, data in enumerate(saved.groups):
                self._executable.write_slots(group, np.array(slots[group], np.int32), data)
        except ValueError:
            self._cache.close(LOADING)
            raise KVFileError(path, "holds other numbers of bytes than its tokens take; save it again") from None
        self._tokens.store(np.array(slots[0], np.int32), np.array(saved.tokens, np.int32))
        self._cache.seq_rm(seq, -1, -1)
        self._cache.seq_cp(LOADING, seq, -1, -1)
        self._cache.seq_rm(LOADING, -1, -1)
        return len(saved.tokens)

    def _slots(self, seq: int, group: int) -> I32Array:
        size = self._cache.config.page_size
        entries = self._cache.table(seq, group)
        return np.concatenate(
            [np.arange(page * size + first, page * size + first + n) for page, first, n in entries]
        ).astype(np.int32)


def do_edits(cache: KVCache, executable: Executable, tokens: SlotTokens) -> None:
    """Do now what waits for the next step: what is read must be there, what is written must stay, and a step that
    raises must find its edits done, since its rows may have overwritten what they read."""
    edits = cache.take_edits()
    if not any(edits):
        return
    try:
        executable.run(only_edits(edits))
    except BaseException:
        cache.put_back_edits(edits)
        raise
    tokens.copied(edits[0])
