"""Errors as data, and back to the class they were. Knows the tree of `errors`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plait.errors import PlaitError


class Fault(NamedTuple):
    """An error: its class by code, its text, and what else it carries (a file, seconds to wait)."""

    code: str
    message: str
    fields: dict[str, str | float | None] = {}  # noqa: RUF012 - a named tuple's default; never changed


def fault_of(error: BaseException) -> Fault:
    """An error that is none of ours becomes the root of the tree, with its kind in the text."""
    if not isinstance(error, PlaitError):
        return Fault(PlaitError.code, f"{type(error).__name__}: {error}")
    fields = {name: value for name, value in vars(error).items() if value is None or isinstance(value, (str, float))}
    return Fault(error.code, str(error), fields)


def error_of(fault: Fault) -> PlaitError:
    """The error that `fault_of` was given; the root of the tree for a code that is not known here."""
    kind = _CLASSES.get(fault.code, PlaitError)
    error = kind.__new__(kind, fault.message)
    error.args = (fault.message,)
    vars(error).update(fault.fields)
    return error


def _classes(root: type[PlaitError]) -> Iterator[type[PlaitError]]:
    yield root
    for below in root.__subclasses__():
        yield from _classes(below)


_CLASSES = {kind.code: kind for kind in _classes(PlaitError) if kind.__module__ == PlaitError.__module__}
"""Faces have errors of their own, which never cross the socket."""
