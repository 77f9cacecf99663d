"""What is cached of a prompt, to a file, back, and away: between two steps, for a caller who names tokens.

Paths are private to a salt, as requests have it. Knows page bookkeeping, an executable's memory and the file; knows no
requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plait.cache.kv import KVCache
from plait.engine.fingerprint import Fingerprint
from plait.engine.kvdisk import Caller
from plait.engine.kvfile import SavedKV, read_kv, write_kv
from plait.errors import KVFileError, OutOfPagesError, RequestError
from plait.ops.api import Executable, I32Array
from plait.types import TokenId

RESTORING = -2
"""The sequence that holds pages while they are filled; the scheduler's ids are not negative."""


class Prefixes:
    """Works on the cache that a scheduler uses; all calls are to be made between the planning of two steps."""

    def __init__(self, cache: KVCache, caller: Caller, mark: Fingerprint) -> None:
        self._cache, self._caller, self._mark = cache, caller, mark
        self._size = cache.config.page_size

    def save(self, tokens: tuple[TokenId, ...], path: Path, salt: str = "", salt_from: int = 0) -> int:
        """Write the longest cached beginning of `tokens`, in whole pages; returns its tokens. Raises `RequestError`
        where nothing is cached, or the file cannot be written."""
        pages = []
        for of_page in self._cache.cached_pages(tokens, salt, salt_from):
            if not all(of_page):
                break  # a window group gave it back
            pages.append(of_page)
        if not pages:
            raise RequestError("nothing of these tokens is cached; there is nothing to save")
        count = len(pages) * self._size
        slots = [self._slots([of_page[group] for of_page in pages]) for group in range(len(pages[0]))]
        data = self._caller.call(lambda executable: _read(executable, slots))
        try:
            write_kv(path, self._mark, SavedKV(tuple(tokens[:count]), tuple(range(count)), data))
        except OSError as error:
            raise RequestError(f"{path}: cannot be written: {error.strerror or error}") from None
        return count

    def restore(self, path: Path, salt: str = "", salt_from: int = 0) -> int:
        """Read such a file into the cache; returns its tokens. Raises `KVFileError` for a file that is none of ours, or
        of another model, `OutOfPagesError` where there is no room."""
        try:
            saved = read_kv(path, self._mark)
        except OSError as error:
            raise KVFileError(path, f"cannot be read: {error.strerror or error}") from None
        count, groups = len(saved.tokens), len(self._cache.config.num_pages)
        if saved.positions != tuple(range(count)) or len(saved.groups) != groups:
            raise KVFileError(path, "holds an edited sequence, not the beginning of a prompt")
        self._cache.open(RESTORING, (), salt, reuse=False, salt_from=salt_from)
        try:
            self._fill(path, saved)
        finally:
            self._cache.close(RESTORING)
        return count

    def erase(self, tokens: tuple[TokenId, ...], salt: str = "", salt_from: int = 0) -> int:
        """Drop what is cached of `tokens` and nobody uses, from the end, as far as nothing else goes on from it;
        returns its tokens."""
        return self._cache.forget(tokens, salt, salt_from)

    def _fill(self, path: Path, saved: SavedKV) -> None:
        slots = self._cache.reserve(RESTORING, len(saved.tokens))
        if slots is None:
            raise OutOfPagesError(f"{path}: there is no room for its {len(saved.tokens)} tokens; try again later")
        assert not any(self._cache.take_edits()), "pages are filled while edits wait"
        try:
            self._caller.call(lambda executable: _write(executable, slots, saved))
        except ValueError:
            raise KVFileError(path, "holds other numbers of bytes than its tokens take; save it again") from None
        self._cache.commit(RESTORING, saved.tokens)

    def _slots(self, pages: list[int]) -> I32Array:
        size = self._size
        return np.concatenate([np.arange(page * size, (page + 1) * size, dtype=np.int32) for page in pages])


def _read(executable: Executable, slots: list[I32Array]) -> tuple[bytes, ...]:
    return tuple(executable.read_slots(group, of_group) for group, of_group in enumerate(slots))


def _write(executable: Executable, slots: Sequence[Sequence[int]], saved: SavedKV) -> None:
    for group, of_group in enumerate(slots):
        executable.write_slots(group, np.array(of_group, np.int32), saved.groups[group])
