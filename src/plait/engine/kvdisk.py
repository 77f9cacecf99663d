"""Between KV memory and the folder that keeps it over a restart: what is read and written when.

Prompts of requests that ended are copied out of their pages between steps and written by a thread; a request
about to begin, of which the folder knows more than the memory, waits for it while others run. Knows page bookkeeping,
requests and the store; knows no files and no order of requests.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from plait.cache.kv import KVCache
from plait.engine.kvfile import SavedKV
from plait.engine.kvstore import KVStore
from plait.ops.api import Executable, I32Array
from plait.types import CacheMode, EngineRequest

_log = logging.getLogger("plait")
T = TypeVar("T")
LOADING = -1
"""The sequence that holds pages while they are filled; the scheduler's ids are not negative."""
STEP_BYTES = 16 << 20
"""Between two steps at most so many bytes are copied each way, and a block more."""
IDLE_BYTES = 64 << 20
"""The same where no request waits."""
WRITING_BYTES = 256 << 20
"""While so many bytes wait to be written, no more are copied."""
MOST_ENDED = 1024
"""Prompts that wait to be copied; of more, the oldest are forgotten."""


class Caller(Protocol):
    """Whoever owns the executable; see `runner.Runner`."""

    def call(self, work: Callable[[Executable], T]) -> T: ...


@dataclass(slots=True)
class Loading:
    """Blocks of a request's prompt that are being read: those from number `first` on, of `names`."""

    request: EngineRequest
    names: list[str]
    first: int
    blocks: Future[list[SavedKV]]


class KVDisk:
    """`slot_bytes[g]` are the bytes of one token in KV group g. Everything but `ready` is to be called between the
    planning of two steps."""

    def __init__(self, cache: KVCache, caller: Caller, store: KVStore, slot_bytes: Sequence[int]) -> None:
        self._cache, self._caller, self._store = cache, caller, store
        self._slot_bytes = tuple(slot_bytes)
        self._block_bytes = store.block_tokens * sum(slot_bytes)
        self._batch = max(1, STEP_BYTES // self._block_bytes)
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plait-kv-read")
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plait-kv-write")
        self._known: dict[str, EngineRequest] = {}
        self._asked: dict[str, Loading | None] = {}  # None: there is nothing (more) to wait for
        self._ended: deque[EngineRequest] = deque(maxlen=MOST_ENDED)
        self._writing: dict[str, Future[None]] = {}  # by the block's name

    # --- requests ---------------------------------------------------------------------------------------------------

    def add(self, request: EngineRequest) -> None:
        """A request was accepted."""
        self._known[request.request_id] = request

    def end(self, request_id: str) -> None:
        """A sample of the request has ended; what there is of its prompt may be kept."""
        request = self._known.pop(request_id, None)
        loading = self._asked.pop(request_id, None)
        if loading is not None:
            loading.blocks.cancel()
        if request is not None and request.cache is CacheMode.READ_WRITE:
            self._ended.append(request)

    def ready(self, request: EngineRequest) -> bool:
        """Whether the request may begin: False while its prompt is being read. The first time begins that."""
        request_id = request.request_id
        if request_id not in self._asked:
            self._asked[request_id] = None
            with _harmless("a prompt could not be looked up in the KV cache folder"):
                self._asked[request_id] = None if request.cache is CacheMode.OFF else self._look(request)
        return self._asked[request_id] is None

    def _look(self, request: EngineRequest) -> Loading | None:
        """The store's blocks after what is in memory, if it has the first of them."""
        size = self._store.block_tokens
        cached = self._cache.cached_prefix(request.prompt, request.salt, request.salt_from)
        first, most = cached // size, (len(request.prompt) - 1) // size
        if first >= most:
            return None
        names = self._names(request)[:most]
        if not self._store.stored(names[first : first + 1]):
            return None
        return Loading(request, names, first, self._read(request, names, first))

    def _read(self, request: EngineRequest, names: list[str], first: int) -> Future[list[SavedKV]]:
        size = self._store.block_tokens

        def work() -> list[SavedKV]:
            blocks: list[SavedKV] = []
            for number in range(first, min(first + self._batch, len(names))):
                block = self._store.read(names[number], request.prompt[number * size : (number + 1) * size])
                if block is None:
                    break
                blocks.append(block)
            return blocks

        return self._reader.submit(work)

    def _names(self, request: EngineRequest) -> list[str]:
        page_size = self._cache.config.page_size
        return self._store.names(request.prompt, request.salt, request.salt_from // page_size * page_size)

    # --- between steps ----------------------------------------------------------------------------------------------

    @property
    def loading(self) -> bool:
        """Whether a request waits for its prompt."""
        return any(self._asked.values())

    def wait(self, seconds: float) -> None:
        """Until a prompt, or a part of one, has been read."""
        wait([one.blocks for one in self._asked.values() if one], seconds, return_when=FIRST_COMPLETED)

    def move(self, *, idle: bool = False) -> None:
        """Put what was read into pages, for one request at a time, and copy out what is to be written."""
        most_bytes = IDLE_BYTES if idle else STEP_BYTES
        for request_id, loading in self._asked.items():
            if loading is not None and loading.blocks.done():
                self._asked[request_id] = None
                with _harmless("what was read from the KV cache folder could not be used"):
                    self._asked[request_id] = self._take_in(loading)
                break
        if self._writing:
            self._writing = {name: future for name, future in self._writing.items() if not future.done()}
        while self._ended and len(self._writing) * self._block_bytes < WRITING_BYTES:
            with _harmless("a prompt could not be copied out for the KV cache folder"):
                most_bytes -= self._copy_out(self._ended[0], most_bytes)
            if most_bytes <= 0:
                break
            self._ended.popleft()

    def close(self) -> None:
        """Write what is still to be written, and stop the threads. May be called again."""
        for request_id in list(self._known):
            self.end(request_id)
        while self._ended:
            self.move(idle=True)
            wait(self._writing.values())
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._writer.shutdown(wait=True)

    def _take_in(self, loading: Loading) -> Loading | None:
        """Blocks that were read get pages, and those enter the radix tree. Returns what is still to be read."""
        blocks = loading.blocks.result()
        request, first = loading.request, loading.first
        if not blocks or not self._insert(request, first, blocks):
            return None
        first += len(blocks)
        if len(blocks) < self._batch or first >= len(loading.names):
            self._writer.submit(self._store.touch, loading.names[:first])
            return None
        return Loading(request, loading.names, first, self._read(request, loading.names, first))

    def _insert(self, request: EngineRequest, first: int, blocks: list[SavedKV]) -> bool:
        size = self._store.block_tokens
        start, count = first * size, len(blocks) * size
        if any([len(data) for data in block.groups] != [size * n for n in self._slot_bytes] for block in blocks):
            return False
        cache, prompt = self._cache, request.prompt
        # What follows the prefix in memory may have come there meanwhile; what precedes may have gone.
        held = cache.open(LOADING, prompt[: start + 1], request.salt, True, request.salt_from)
        try:
            slots = cache.reserve(LOADING, count) if held == start else None
            if slots is None:
                return False
            assert not any(cache.take_edits()), "pages are filled while edits wait"
            self._caller.call(lambda executable: _write(executable, slots, blocks, size))
            cache.commit(LOADING, prompt[start : start + count])
            return True
        finally:
            cache.close(LOADING)

    def _copy_out(self, request: EngineRequest, most_bytes: int) -> int:
        """Copy blocks of the prompt that are in memory and not stored. Returns their bytes: `most_bytes` or more where
        that ended it before the last block."""
        names, copied = self._names(request), 0
        pages = self._cache.cached_pages(request.prompt, request.salt, request.salt_from)
        each = self._store.block_tokens // self._cache.config.page_size
        for number, name in enumerate(names):
            of_block = pages[number * each : (number + 1) * each]
            if len(of_block) < each or not all(map(all, of_block)):
                break  # evicted, or given back by a window group: nothing after it would be found
            if name in self._writing or self._store.stored([name]):
                continue
            self._copy_block(request, number, name, of_block)
            copied += self._block_bytes
            if copied >= most_bytes:
                return copied
        self._writer.submit(self._store.touch, names)
        return copied

    def _copy_block(self, request: EngineRequest, number: int, name: str, pages: Sequence[Sequence[int]]) -> None:
        size, page_size = self._store.block_tokens, self._cache.config.page_size
        slots = [_slots([page[group] for page in pages], page_size) for group in range(len(self._slot_bytes))]
        groups = self._caller.call(lambda executable: _read(executable, slots))
        first, end = number * size, (number + 1) * size
        saved = SavedKV(request.prompt[first:end], tuple(range(first, end)), groups)
        self._writing[name] = self._writer.submit(self._store.write, name, saved)


@contextmanager
def _harmless(what: str) -> Iterator[None]:
    """Whatever goes wrong with the disk costs time only: no request is the worse for it."""
    try:
        yield
    except Exception:
        _log.exception("%s", what)


def _slots(pages: list[int], page_size: int) -> I32Array:
    return np.concatenate([np.arange(page * page_size, (page + 1) * page_size, dtype=np.int32) for page in pages])


def _read(executable: Executable, slots: list[I32Array]) -> tuple[bytes, ...]:
    return tuple(executable.read_slots(group, of_group) for group, of_group in enumerate(slots))


def _write(executable: Executable, slots: Sequence[Sequence[int]], blocks: list[SavedKV], size: int) -> None:
    for group, of_group in enumerate(slots):
        array = np.array(of_group, np.int32)
        for number, block in enumerate(blocks):
            executable.write_slots(group, array[number * size : (number + 1) * size], block.groups[group])
