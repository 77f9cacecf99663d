"""Work that recurses deeply in native code, on threads whose stack is large enough for it. Knows threads alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

STACK_BYTES = 256 * 1024 * 1024
"""Address space, of which only what is used becomes memory. A grammar of the largest size whose rules refer to one
another in a chain takes about a fifth of it."""
T = TypeVar("T")
_starting = threading.Lock()  # the size of stacks to come is the process's, not a thread's


def deep_thread(work: Callable[[], T]) -> T:
    """The result of `work`, done on a thread of its own; raises what it raises."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, name="plait-deep", daemon=True)
    with _starting:
        before = threading.stack_size(STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    return result.result()


def deep_threads(count: int, name: str) -> ThreadPoolExecutor:
    """A pool of `count` such threads, all of them started."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    together = threading.Barrier(count + 1)  # so that none of them is free for the next one's work
    with _starting:
        before = threading.stack_size(STACK_BYTES)
        try:
            for _ in range(count):
                pool.submit(together.wait)
        finally:
            threading.stack_size(before)
    together.wait()
    return pool
