"""A file mapped into memory, read-only. Knows the file system; knows no container.

Whoever reads a mapped file checks every offset against `size` first: reading past the end of a map kills the process.
A file that another program shortens while it is open does so, too; replace model files, never write into them.
"""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plait.errors import ModelFileError, ModelNotFoundError
from plait.formats.sniff import HEAD_BYTES, looks_like
from plait.formats.tensor import U8Array


@dataclass(frozen=True, slots=True)
class MappedFile:
    """`data` is the whole file, `size` its length in bytes. Unmapped when nothing refers to it any more."""

    path: Path
    data: mmap.mmap
    size: int

    def bytes_view(self) -> U8Array:
        """The file as one read-only array, not copied."""
        return np.frombuffer(self.data, np.uint8)

    def looks_like(self) -> str:
        return looks_like(self.data[:HEAD_BYTES])


def map_file(path: Path) -> MappedFile:
    """Map `path`. Raises `ModelNotFoundError` if there is none, `ModelFileError` if it cannot be read or is empty."""
    try:
        # Asked before opening: opening a pipe would wait for its writer for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ModelFileError(path, "is not a regular file")
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in the path
        raise ModelNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            raise ModelFileError(path, "is empty (0 bytes); the download may have failed, fetch it again")
        return MappedFile(path, mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), size)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    finally:
        os.close(descriptor)


def is_mapped(part: U8Array) -> bool:
    """Whether these are bytes of a mapped file: their memory may be given back (MADV_DONTNEED), since they come from
    the file again when they are next read."""
    return _mapping(part) is not None


def give_back(part: U8Array) -> None:
    """Let the system have the memory of these bytes if they are a mapped file's. A look at a few of them may have
    brought in two MiB around each, where the page cache holds the file in such pieces."""
    mapping = _mapping(part)
    if mapping is None or not part.nbytes or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = part.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
    page = start // mmap.PAGESIZE * mmap.PAGESIZE
    mapping.madvise(mmap.MADV_DONTNEED, page, start + part.nbytes - page)


def _mapping(part: U8Array) -> mmap.mmap | None:
    owner: object = part
    while isinstance(owner, np.ndarray):
        owner = owner.base
    mapping = owner.obj if isinstance(owner, memoryview) else owner
    return mapping if isinstance(mapping, mmap.mmap) and not part.flags.writeable else None


def unreadable(path: Path, error: Exception) -> ModelFileError:
    """The error for a file that the system will not let us read."""
    if isinstance(error, PermissionError):
        return ModelFileError(path, "permission denied; make it readable for this user")
    reason = getattr(error, "strerror", None) or error
    return ModelFileError(path, f"cannot be read: {reason}")
