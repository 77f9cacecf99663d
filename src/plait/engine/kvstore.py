"""A folder of saved KV memory: blocks of tokens, found by what they and all tokens before them are.

A block's name is a hash of the fingerprint, of the salt, and of all tokens up to its end, so a prefix is followed block
by block, prompts that begin alike share files, and salts stay apart. Several processes may share the folder: a file
appears as a whole, and two that have one name hold the same. Knows files; knows no pages, no requests and no device.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from plait.engine.fingerprint import Fingerprint
from plait.engine.kvfile import SavedKV, read_kv, write_kv
from plait.errors import KVFileError
from plait.types import TokenId

_log = logging.getLogger("plait")
SUFFIX = ".kv"
_OURS = re.compile(r"[0-9a-f]{40}\.kv(.*\.new)?")
LOOK_AGAIN = 64
"""Writes after which the folder is looked at again, for what other processes wrote."""
FULL = 0.9
"""Files are removed until this share of the limit is left, lest every write had to look for one."""
STALE_S = 600.0
"""A file that is still being written after so long was left by a process that is no more."""


class KVStore:
    """`block_tokens` tokens a file; at most `max_bytes` in all, the least recently used go first. A time of last use is
    the file's own. Reading and writing may be done on two threads, each on one.

    A file that is damaged, or not what its name says, is removed with a warning; one that cannot be read or written is
    a warning, once for each cause.
    """

    def __init__(self, folder: Path, mark: Fingerprint, block_tokens: int, max_bytes: int) -> None:
        self._folder, self._mark = folder.expanduser(), mark
        self.block_tokens = block_tokens
        self._max_bytes = max_bytes
        self._root = hashlib.sha256(str(mark).encode()).digest()
        self._bytes = self._writes = 0  # since the folder was last looked at
        self._warned: set[str] = set()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._warn("cannot be made", self._folder, error)
        self._trim()

    def names(self, tokens: Sequence[TokenId], salt: str = "", shared_tokens: int = 0) -> list[str]:
        """The names of the whole blocks of `tokens`. A block that goes past the first `shared_tokens` is private to
        `salt`."""
        size, name, names = self.block_tokens, self._root, []
        for end in range(size, len(tokens) + 1, size):
            private = salt.encode() if end > shared_tokens else b""
            block = struct.pack(f"<{size}i", *tokens[end - size : end])
            name = hashlib.sha256(name + block + hashlib.sha256(private).digest()).digest()
            names.append(name.hex()[:40] + SUFFIX)
        return names

    def stored(self, names: Sequence[str]) -> int:
        """How many of the first names are there, in a row."""
        for count, name in enumerate(names):
            if not (self._folder / name).exists():
                return count
        return len(names)

    def read(self, name: str, tokens: Sequence[TokenId]) -> SavedKV | None:
        """The block of this name, which must hold `tokens`; None where it cannot be had."""
        path = self._folder / name
        try:
            saved = read_kv(path, self._mark, self.block_tokens)
            if saved.tokens != tuple(tokens):
                raise KVFileError(path, "holds other tokens than its name says")
            os.utime(path)
        except FileNotFoundError:
            return None
        except KVFileError as error:
            _log.warning("%s; it is removed", error)
            self._remove(name)
            return None
        except OSError as error:
            self._warn("cannot be read", path, error)
            return None
        return saved

    def write(self, name: str, saved: SavedKV) -> None:
        """Keep a block, and let go of the least recently used ones if there are too many bytes now."""
        path = self._folder / name
        try:
            size = write_kv(path, self._mark, saved)
        except OSError as error:
            self._warn("cannot be written", path, error)
            return
        self._bytes += size
        self._writes += 1
        if self._bytes > self._max_bytes or self._writes >= LOOK_AGAIN:
            self._trim()

    def touch(self, names: Sequence[str]) -> None:
        """These blocks are in use, the first the most: without it the others cannot be found."""
        for name in reversed(names):
            try:
                os.utime(self._folder / name)
            except OSError:
                return

    def _trim(self) -> None:
        """Look at the folder anew, since others write to it, and remove files until it is small enough, with some room
        to spare. Only what has a name like ours is counted, or removed."""
        self._writes = 0
        found: list[tuple[int, str, int]] = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    self._look(entry, found)
        except OSError as error:
            self._warn("cannot be listed", self._folder, error)
            return
        self._bytes = sum(size for _, _, size in found)
        goal = int(self._max_bytes * FULL) if self._bytes > self._max_bytes else self._bytes
        for _, name, size in sorted(found):
            if self._bytes <= goal:
                break
            self._remove(name)
            self._bytes -= size

    def _look(self, entry: os.DirEntry[str], found: list[tuple[int, str, int]]) -> None:
        """Put a file of ours into `found`; one that was left half written is removed."""
        ours = _OURS.fullmatch(entry.name)
        if ours is None:
            return
        try:
            stat = entry.stat()
        except FileNotFoundError:  # another process has just removed it
            return
        if not ours[1]:
            found.append((stat.st_mtime_ns, entry.name, stat.st_size))
        elif time.time() - stat.st_mtime > STALE_S:
            self._remove(entry.name)

    def _remove(self, name: str) -> None:
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError as error:
            self._warn("cannot be removed", self._folder / name, error)

    def _warn(self, what: str, path: Path, error: OSError) -> None:
        cause = f"{what}: {error.strerror or error}"
        if cause not in self._warned:
            self._warned.add(cause)
            _log.warning("the KV cache folder: %s %s", path, cause)
