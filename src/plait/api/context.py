"""llama.cpp's low level: decode batches of tokens, and move the memory of sequences about.

A `Context` owns KV memory for one model and runs a batch as one step. Nothing here schedules; for prompts in and text
out see `LLM`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np

from plait.api.batch import Batch, BatchToken
from plait.api.model import Model
from plait.api.saving import SequenceFiles, SlotTokens, do_edits
from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.config import from_environment
from plait.engine.build import kv_config, make_backend
from plait.engine.fingerprint import fingerprint
from plait.errors import OptionError, RequestError
from plait.formats.tensor import F32Array
from plait.ops.api import I32Array, KVInputs, StepInputs

LAST_POSITION = 2**31 - 1


class DecodeStatus(IntEnum):
    """What `Context.decode` returns; llama.cpp's numbers."""

    DONE = 0
    NO_ROOM = 1  # nothing changed: free some memory or send less, then try again
    ABORTED = 2  # the abort callback said so before the step began: nothing changed
    INVALID = -1  # the batch contradicts itself or the memory: nothing changed; see `Context.last_error`


class Memory:
    """The sequences' memory. Ranges of positions are half-open, [p0, p1); a negative bound is an open end.

    A sequence that gets a hole, a shift or a division is *edited*; it can go on, but is never shared by prefix.
    """

    def __init__(self, cache: KVCache, n_seq_max: int) -> None:
        self._cache = cache
        self._n_seq_max = n_seq_max

    def seq_cp(self, src: int, dst: int, p0: int = -1, p1: int = -1) -> None:
        """dst gets src's tokens in the range: whole pages are shared, ragged ends copied. Raises `RequestError` for a
        sequence that the context does not have."""
        for seq in (src, dst):
            if not 0 <= seq < self._n_seq_max:
                raise RequestError(f"sequence {seq} is not one of 0..{self._n_seq_max - 1} (n_seq_max)")
        self._cache.seq_cp(src, dst, p0, p1)

    def seq_rm(self, seq: int, p0: int = -1, p1: int = -1) -> bool:
        """Forget a range of one sequence (seq < 0: of all). True if it was done."""
        return self._cache.seq_rm(seq, p0, p1)

    def seq_keep(self, seq: int) -> None:
        """Forget every other sequence."""
        self._cache.seq_keep(seq)

    def seq_add(self, seq: int, p0: int, p1: int, delta: int) -> None:
        """Add delta to the positions in the range (context shift); the keys are re-rotated before the next step.

        Raises `RequestError` where a position would not fit into 32 bits, `OutOfPagesError` where shared pages would
        have to be copied and there is no room; then nothing has changed."""
        if self._cache.seq_pos_max(seq) + delta > LAST_POSITION:
            raise RequestError(f"positions of sequence {seq} cannot grow by {delta}; the last one is {LAST_POSITION}")
        self._cache.seq_add(seq, p0, p1, delta)

    def seq_div(self, seq: int, p0: int, p1: int, d: int) -> None:
        """Divide the positions in the range by d, rounding down. Raises like `seq_add`; `RequestError` if d < 1."""
        if d < 1:
            raise RequestError(f"positions cannot be divided by {d}; it must be at least 1")
        self._cache.seq_div(seq, p0, p1, d)

    def seq_pos_min(self, seq: int) -> int:
        """The smallest position the sequence holds, -1 if none."""
        return self._cache.seq_pos_min(seq)

    def seq_pos_max(self, seq: int) -> int:
        """The largest position the sequence holds, -1 if none."""
        return self._cache.seq_pos_max(seq)

    def clear(self) -> None:
        """Forget everything."""
        self._cache.clear()


class Context:
    """KV memory and kernels for one model.

    `n_ctx` tokens for each of `n_seq_max` sequences (0: the model's own context); `n_batch` tokens a step at most;
    `kv_tokens` bounds the KV memory as a whole (0: room for every sequence at full context); it never takes more than a
    quarter of the RAM. `abort` is asked before each step, and True ends `decode` with ABORTED.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int = 0,
        n_seq_max: int = 1,
        n_batch: int = 2048,
        kv_tokens: int = 0,
        kv_type: str = "f16",
        threads: int = 0,
        device: str = "auto",
        page_size: int = 16,
        abort: Callable[[], bool] | None = None,
    ) -> None:
        options = from_environment(
            {"n_ctx": n_ctx, "n_parallel": n_seq_max, "n_batch": n_batch, "kv_type": kv_type, "page_size": page_size}
            | ({"threads": threads} if threads else {})
            | ({"device": device} if device != "auto" else {})
        )
        self.model = model
        self.n_ctx = n_ctx or model.context_length
        self.n_seq_max, self.n_batch = n_seq_max, n_batch
        self.last_error = ""
        self._abort = abort
        if kv_tokens < 0:
            raise OptionError(f"kv_tokens is {kv_tokens}; give at least 0")
        program = model.loaded.program
        kv = kv_config(program.kv, options, model.context_length, kv_tokens)
        windows = tuple(group.window for group in program.kv.groups)
        self._cache = KVCache(CacheConfig(kv.page_size, kv.num_pages, windows))
        backend = make_backend(options)
        self._executable, self._backend, self._kv_type = backend.compile(program, kv), backend.name, kv.kv_type
        self._tokens = SlotTokens(kv.num_pages[0] * kv.page_size)
        self.memory = Memory(self._cache, n_seq_max)
        self._logits: dict[int, F32Array] = {}

    def decode(self, batch: Batch) -> DecodeStatus:
        """Run the batch as one step. On DONE the tokens are part of their sequences, and `logits` answers for the rows
        that asked. Otherwise nothing has changed. Raises what the kernels raise, with the memory as before.
        """
        self._logits, self.last_error = {}, ""
        problem = self._problem(batch)
        if problem:
            self.last_error = problem
            return DecodeStatus.INVALID
        if self._abort is not None and self._abort():
            return DecodeStatus.ABORTED
        touched = {seq for token in batch for seq in token.seq_ids}
        before = {seq: self._cache.length(seq) for seq in touched if self._cache.seq_pos_max(seq) >= 0}
        stores = self._reserve(batch)
        if stores is None:
            self._roll_back(touched, before)
            return DecodeStatus.NO_ROOM
        order = _by_sequence(batch)
        try:
            do_edits(self._cache, self._executable, self._tokens)
            logits = self._executable.run(self._pack(batch, order, stores))
        except BaseException:
            self._roll_back(touched, before)
            raise
        asked = [i for i in order if batch[i].logits]
        self._logits = {index: logits[row].copy() for row, index in enumerate(asked)}
        rows, slots = _i32([i for i, _ in stores[0]]), _i32([slot for _, slot in stores[0]])
        self._tokens.store(slots, _i32([token.token for token in batch])[rows])
        return DecodeStatus.DONE

    def logits(self, index: int = -1) -> F32Array:
        """Logits of batch token `index` of the last decode: float32, (vocabulary,). Negative counts from the last
        token that asked. Raises `RequestError` where that token asked for none."""
        if index < 0:
            asked = sorted(self._logits)
            index = asked[index] if -index <= len(asked) else index
        if index not in self._logits:
            raise RequestError(f"token {index} of the last batch has no logits; add it with logits=True")
        return self._logits[index]

    def save_sequence(self, seq_id: int, path: str | Path) -> int:
        """Write the KV memory of a sequence to a file, with its tokens and their positions (an edited one's too);
        returns the file's size in bytes. A file at `path` is replaced, as a whole.

        Raises `RequestError` for a sequence that is empty or that the context does not have, and where the file cannot
        be written."""
        self._check_sequence(seq_id)
        return self._files.save(seq_id, Path(path))

    def load_sequence(self, path: str | Path, seq_id: int) -> int:
        """Put what `save_sequence` wrote in the place of sequence `seq_id`; returns the number of its tokens. What it
        computes from there has the bits that the saved sequence's tokens would have had.

        Raises `KVFileError` for a file that is damaged, does not fit the context, or was made with another model,
        tokenizer, KV type or kernel library, `OutOfPagesError` where there is no room for it beside what there is, and
        `RequestError` for a sequence that the context does not have. Then nothing has changed."""
        self._check_sequence(seq_id)
        return self._files.load(Path(path), seq_id)

    @cached_property
    def _files(self) -> SequenceFiles:
        tokenizer = self.model.tokenizer.fingerprint() if self.model.tokenizer else ""
        mark = fingerprint(self.model.loaded, self._kv_type, self._backend, tokenizer)
        return SequenceFiles(self._cache, self._executable, self._tokens, mark, self.n_ctx)

    def _check_sequence(self, seq: int) -> None:
        if not 0 <= seq < self.n_seq_max:
            raise RequestError(f"sequence {seq} is not one of 0..{self.n_seq_max - 1} (n_seq_max)")

    def check(self) -> None:
        """Verify the invariants of the memory's bookkeeping; raises `AssertionError`."""
        self._cache.check()

    def _problem(self, batch: Batch) -> str:
        """Why the batch cannot be decoded, or an empty string."""
        if not len(batch):
            return "the batch is empty"
        if len(batch) > self.n_batch:
            return f"the batch has {len(batch)} tokens; at most n_batch = {self.n_batch} run in a step"
        following: dict[int, int] = {}
        for i, token in enumerate(batch):
            problem = self._token_problem(token, following)
            if problem:
                return f"token {i}: {problem}"
        return ""

    def _token_problem(self, token: BatchToken, following: dict[int, int]) -> str:
        if not 0 <= token.token < self.model.vocab_size:
            return f"id {token.token} is not in the vocabulary of {self.model.vocab_size}"
        if not token.seq_ids or len(set(token.seq_ids)) != len(token.seq_ids):
            return f"sequence ids {token.seq_ids} are empty or name one twice"
        for seq in token.seq_ids:
            if not 0 <= seq < self.n_seq_max:
                return f"sequence {seq} is not one of 0..{self.n_seq_max - 1} (n_seq_max)"
            end = self._cache.seq_pos_max(seq)
            expected = following.get(seq, end + 1 if end >= 0 else max(token.pos, 0))
            if token.pos != expected:
                return f"position {token.pos} does not continue sequence {seq}, whose next is {expected}"
            if token.pos >= self.n_ctx:
                return f"position {token.pos} is past the context of {self.n_ctx}"
            following[seq] = token.pos + 1
        return ""

    def _reserve(self, batch: Batch) -> list[list[tuple[int, int]]] | None:
        """Slots for every token: for each group, (batch index, slot). None where there is no room."""
        stores: list[list[tuple[int, int]]] = [[] for _ in self.model.loaded.program.kv.groups]
        start = 0
        for seq_ids, run in groupby(batch, key=lambda t: t.seq_ids):
            tokens = list(run)
            reserved = self._cache.reserve_shared(seq_ids, len(tokens), tokens[0].pos)
            if reserved is None:
                return None
            for group, pairs in enumerate(reserved.stores):
                stores[group].extend((start + row, slot) for row, slot in pairs)
            start += len(tokens)
        return stores

    def _roll_back(self, touched: set[int], before: dict[int, int]) -> None:
        for seq in touched:
            if self._cache.seq_pos_max(seq) >= 0:
                self._cache.truncate(seq, before.get(seq, 0))

    def _pack(self, batch: Batch, order: list[int], stores: list[list[tuple[int, int]]]) -> StepInputs:
        rows = {index: row for row, index in enumerate(order)}
        sequences: list[int] = []
        row_seq = []
        for index in order:
            seq = batch[index].seq_ids[0]
            if not sequences or sequences[-1] != seq:
                sequences.append(seq)
            row_seq.append(len(sequences) - 1)
        return StepInputs(
            tokens=_i32([batch[i].token for i in order]),
            positions=_i32([batch[i].pos for i in order]),
            row_seq=_i32(row_seq),
            out_rows=_i32([row for row, i in enumerate(order) if batch[i].logits]),
            kv=tuple(
                self._pack_group(group, sequences, [(rows[i], slot) for i, slot in pairs])
                for group, pairs in enumerate(stores)
            ),
        )

    def _pack_group(self, group: int, sequences: list[int], stores: list[tuple[int, int]]) -> KVInputs:
        tables = [self._cache.table(seq, group) for seq in sequences]
        starts = np.cumsum([0, *(len(table) for table in tables)])
        entries = _i32([entry for table in tables for entry in table]).reshape(-1, 3)
        rows, slots = _i32([row for row, _ in stores]), _i32([slot for _, slot in stores])
        return KVInputs(_i32(starts), entries, rows, slots)


def _by_sequence(batch: Batch) -> list[int]:
    """Batch indices with the rows of one sequence adjacent, in their order."""
    first: dict[int, int] = {}
    for token in batch:
        first.setdefault(token.seq_ids[0], len(first))
    return sorted(range(len(batch)), key=lambda i: first[batch[i].seq_ids[0]])


def _i32(values: object) -> I32Array:
    return np.asarray(values, dtype=np.int32)
