"""A Jinja sandbox in which a template can spend only so much: steps, time, and sizes of what it builds.

Jinja's sandbox keeps a template from Python's insides, but lets it loop for hours or fill the memory. Here every
iteration and call is counted, and every operation that can make a large value out of small ones is measured first.
Knows Jinja; knows nothing of chats.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from functools import wraps
from time import monotonic
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_TEXT = 16 << 20  # characters, of all output together and of any one string
MAX_CONSTANT = 256 << 20  # characters of the template's own text, counted once for each time round its loop
MAX_STEPS = 300_000
MAX_SECONDS = 10.0
_MAX_NUMBER = 10_000  # as an argument: a width, an indent, a count
_MAX_BITS = 4096

_WIDE_FORMAT = re.compile(r"\d{5,}|\*|\{[^{}]*\{")  # a width that is large, or computed
_FORMATTERS = frozenset({"format", "format_map"})
_GROWING = frozenset({"replace", "indent"})
_TICK = "plait_tick"
_CONCAT = "plait_concat"


class Budget:
    """What one rendering may still spend."""

    def __init__(self) -> None:
        self._steps = MAX_STEPS
        self._text = MAX_TEXT
        self._constant = MAX_CONSTANT
        self._end = monotonic() + MAX_SECONDS

    def tick(self, constant: int = 0) -> None:
        """One more call, or time round a loop, that may write `constant` characters of the template's own."""
        self._steps -= 1
        self._constant -= constant
        if self._constant < 0:
            raise SecurityError("the template repeats its own text too often")
        if self._steps < 0:
            raise SecurityError(f"the template takes more than {MAX_STEPS} steps")
        if monotonic() > self._end:
            raise SecurityError(f"the template takes more than {MAX_SECONDS:g} seconds")

    def emit(self, characters: int) -> None:
        self._text -= characters
        if self._text < 0:
            raise SecurityError(f"the template writes more than {MAX_TEXT} characters")


def bounded_join(parts: Iterable[str]) -> str:
    """The output of a template, as it is generated."""
    size = 0
    kept = []
    for part in parts:
        size += len(part)
        _refuse_above(size)
        kept.append(part)
    return "".join(kept)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Use a template within `spending(budget)`. Filters are set with `set_filter`."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=self._emit, **options)
        self._spender = threading.local()
        self._macro_text = 0
        del self.globals["lipsum"]
        for name, function in list(self.filters.items()):
            self.set_filter(name, function)
        self.filters[_TICK] = self._each
        self.filters[_CONCAT] = self._concat

    @contextmanager
    def spending(self, budget: Budget) -> Iterator[None]:
        self._spender.budget = budget
        try:
            yield
        finally:
            del self._spender.budget

    def set_filter(self, name: str, function: Callable[..., Any]) -> None:
        skipped = 1 if hasattr(function, "jinja_pass_arg") else 0  # Jinja's context comes before the arguments

        @wraps(function)  # with the mark that asks for the context
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self._tick()
            own = list(args[skipped:])
            if name == "join" and own and not isinstance(own[0], Sized):
                own[0] = list(own[0])
            _check_arguments(name, own, kwargs)
            return _check_size(function(*args[:skipped], *own, **kwargs))

        self.filters[name] = bounded

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Every call in a template comes here: methods, macros, functions."""
        self._tick(self._macro_text if isinstance(function, Macro) else 0)
        method = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
        if isinstance(owner := getattr(method, "__self__", None), str):
            _check_arguments(method.__name__, [owner, *args], kwargs)
        return _check_size(super().call(context, function, *args, **kwargs))

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        if attribute.startswith("_"):
            raise SecurityError(f"the template asks for {attribute}, which is none of its business")
        return super().unsafe_undefined(obj, attribute)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        self._macro_text = sum(_own_text(macro) for macro in tree.find_all((nodes.Macro, nodes.CallBlock)))
        for loop in list(tree.find_all(nodes.For)):
            size = [nodes.Const(_own_text(loop), lineno=loop.lineno, environment=self)]
            loop.iter = nodes.Filter(loop.iter, _TICK, size, [], None, None, lineno=loop.lineno, environment=self)
        return _measure_concat(tree, self)

    def _tick(self, constant: int = 0) -> None:
        budget: Budget | None = getattr(self._spender, "budget", None)
        if budget is not None:  # none while constants are folded, which Jinja does when it compiles
            budget.tick(constant)

    def _each(self, items: Iterable[Any], constant: int) -> Iterable[Any]:
        return _Ticking(items, lambda: self._tick(constant))

    def _concat(self, parts: list[Any]) -> str:
        text = [str(part) for part in parts]
        _refuse_above(sum(map(len, text)))
        return "".join(text)

    def _emit(self, value: Any) -> Any:
        if isinstance(value, (str, Sized)):
            text = str(value)
            budget: Budget | None = getattr(self._spender, "budget", None)
            if budget is not None:
                budget.emit(len(text))
            return text
        return value


class _Ticking:
    """What a loop goes through, counted. Has a length if the original has, for `loop.length` and `loop.last`."""

    def __init__(self, items: Iterable[Any], tick: Callable[[], None]) -> None:
        self._items = items
        self._tick = tick

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._tick()
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]  # a TypeError is what Jinja expects here


def _own_text(node: nodes.Node) -> int:
    """Characters that stand in the template under `node`."""
    return sum(len(data.data) for data in node.find_all(nodes.TemplateData))


def _measure_concat(tree: nodes.Template, environment: BoundedEnvironment) -> nodes.Template:
    """`a ~ b` as a filter over [a, b]: the operator itself cannot be intercepted."""

    def visit(node: nodes.Node) -> nodes.Node:
        for field, value in node.iter_fields():
            if isinstance(value, nodes.Node):
                setattr(node, field, visit(value))
            elif isinstance(value, list):
                setattr(node, field, [visit(v) if isinstance(v, nodes.Node) else v for v in value])
        if not isinstance(node, nodes.Concat):
            return node
        parts = nodes.List(node.nodes, lineno=node.lineno, environment=environment)
        return nodes.Filter(parts, _CONCAT, [], [], None, None, lineno=node.lineno, environment=environment)

    changed = visit(tree)
    assert isinstance(changed, nodes.Template)
    return changed


def _refuse_above(size: int, limit: int = MAX_TEXT) -> None:
    if size > limit:
        raise SecurityError(f"the template builds a value of size {size}; at most {limit} is allowed")


def _check_size(value: Any) -> Any:
    if isinstance(value, (str, list, tuple, dict)):
        _refuse_above(len(value))
    return value


def _check_arguments(name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Before a method of a string, or a filter: numbers that become sizes, and products of strings."""
    for argument in (*args[1:], *kwargs.values()):
        if isinstance(argument, int):
            _refuse_above(abs(argument), _MAX_NUMBER)
    if not args:
        return
    if name in _FORMATTERS and isinstance(args[0], str) and _WIDE_FORMAT.search(args[0]):
        raise SecurityError("the template formats with a width that is too large, or computed")
    strings = [argument for argument in (*args, *kwargs.values()) if isinstance(argument, str)]
    if name in _GROWING and strings:
        longest = max(map(len, strings[1:]), default=_MAX_NUMBER)
        places = strings[0].count(strings[1]) if name == "replace" and len(strings) > 1 else strings[0].count("\n") + 1
        _refuse_above(len(strings[0]) + places * longest)
    if name == "join":
        items = next((a for a in args if isinstance(a, (list, tuple, set, frozenset, dict))), ())
        separator = max(map(len, strings), default=0)
        _refuse_above(sum(separator + (len(item) if isinstance(item, Sized) else 20) for item in items))


def _check_operands(operator: str, left: Any, right: Any) -> None:
    numbers = isinstance(left, int) and isinstance(right, int)
    if operator == "%" and isinstance(left, str) and _WIDE_FORMAT.search(left):
        raise SecurityError("the template formats with a width that is too large, or computed")
    if operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
        _refuse_above(len(left) + len(right))
    if operator == "**" and numbers:
        _refuse_above(left.bit_length() * max(right, 0), _MAX_BITS)
    if operator == "*" and numbers:
        _refuse_above(left.bit_length() + right.bit_length(), _MAX_BITS)
    elif operator == "*":
        sized, times = (left, right) if isinstance(left, Sized) else (right, left)
        if isinstance(sized, Sized) and isinstance(times, int):
            _refuse_above(len(sized) * max(times, 0))
