"""The bar that shows how far a model's weights are prepared, where loading takes long and somebody looks.

Knows rich and the shape of `Progress`; knows nothing of models.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE_S = 0.5
"""Who loads in less sees no bar."""


class LoadingBar:
    """Called with (bytes done, bytes in all). Draws nothing until `PATIENCE_S` have passed since it was made, and
    nothing at all for a stream that is no terminal."""

    def __init__(self, stream: TextIO | None, patience_s: float = PATIENCE_S) -> None:
        self._stream = stream if stream is not None and stream.isatty() else None
        self._due = time.monotonic() + patience_s
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._stream is None or time.monotonic() < self._due:
            return
        if self._bar is None:
            self._bar = _new_bar(self._stream)
            self._bar.start()
            self._task = self._bar.add_task("loading", total=total)
        self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def _new_bar(stream: TextIO) -> Progress:
    from rich.console import Console  # takes longer to import than a small model to load
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    return Progress(*columns, console=Console(file=stream), transient=True, refresh_per_second=10)


@contextmanager
def loading_bar() -> Iterator[LoadingBar]:
    """A bar on standard error for as long as the block runs."""
    bar = LoadingBar(sys.stderr)
    try:
        yield bar
    finally:
        bar.close()
