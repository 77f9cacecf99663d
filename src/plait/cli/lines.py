"""Messages out of typed lines: a line that ends with a backslash goes on, and three quotes hold a block together.

Knows lines of text; where they come from is handed in.
"""

from __future__ import annotations

from collections.abc import Callable

QUOTES = '"""'
MORE = "... "


def read_message(read_line: Callable[[str], str], prompt: str) -> str:
    """The next message; `read_line(prompt)` gives a line without its end; an empty prompt means that nobody sees it.
    Raises `EOFError` where no line is left; a message that the end cuts short is one."""
    line = read_line(prompt)
    more = MORE if prompt else ""
    if line.lstrip().startswith(QUOTES):
        return _block(line.lstrip().removeprefix(QUOTES), lambda: read_line(more))
    lines = []
    while line.endswith("\\"):
        lines.append(line[:-1])
        try:
            line = read_line(more)
        except EOFError:
            return "\n".join(lines)
    return "\n".join([*lines, line])


def _block(line: str, read_line: Callable[[], str]) -> str:
    """What stands before the next three quotes; the line breaks next to the quotes are not part of it."""
    lines = [line]
    while not lines[-1].rstrip().endswith(QUOTES):
        try:
            lines.append(read_line())
        except EOFError:
            return "\n".join(lines).strip("\n")
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")
