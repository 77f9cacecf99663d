"""Calls written as Python: `name(key="value")`, one a line or in a list. Nothing is run: names and
literals are read."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

from plait.tokenizer.toolcalls.parts import PartWriter
from plait.tokenizer.toolcalls.reader import Reader, Scan
from plait.tokenizer.toolcalls.tagged_calls import Schemas

MOST = 1 << 16
"""Characters of a block that is read as Python."""
_OTHER_LITERALS = {"true": True, "false": False, "null": None}
_LIST = re.compile(r"\[\s*([\w.]+)\(")
_HEAD = re.compile(r"[\w.\s\[]*")


def block(reader: Reader, writer: PartWriter, at: int, closer: str, schemas: Schemas) -> Scan[int | None]:
    """All up to `closer`, which is taken."""
    end = yield from reader.until(at, closer)
    stop = reader.stop if end is None else end
    if not _write(writer, reader.cut(at, stop), schemas):
        return None
    return stop if end is None else end + len(closer)


def whole(reader: Reader, writer: PartWriter, at: int, schemas: Schemas) -> Scan[int | None]:
    """A list of calls that is the answer; the tools must be known."""
    if (yield from reader.char(at)) != "[":
        return None
    end = yield from reader.run(at, _HEAD)
    found = _LIST.match(reader.cut(at, end + 1))
    if found is None or found[1] not in schemas:
        return None
    while not reader.ended:
        yield
    written = reader.cut(at).rstrip()
    return reader.stop if _write(writer, written, schemas) else None


def _write(writer: PartWriter, source: str, schemas: Schemas) -> bool:
    """Whether the text is calls and nothing else; then they are written."""
    try:
        found = [_call(node, schemas) for node in _calls(source)]
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    for name, arguments in found:
        writer.start(name)
        writer.arguments(json.dumps(arguments, ensure_ascii=False))
    return bool(found)


def _calls(source: str) -> list[ast.expr]:
    if len(source) > MOST:
        raise ValueError
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a backslash that Python does not know
        tree = ast.parse(source.strip())
    nodes: list[ast.expr] = []
    for statement in tree.body:
        if not isinstance(statement, (ast.Expr, ast.Assign)):
            raise ValueError
        value = statement.value
        nodes += value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value]
    return nodes


def _call(node: ast.expr, schemas: Schemas) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, ast.Call):
        raise ValueError
    name = ast.unparse(node.func)
    if name == "print" and name not in schemas and len(node.args) == 1:
        return _call(node.args[0], schemas)
    if not re.fullmatch(r"[\w.]+", name) or (schemas and name not in schemas):
        raise ValueError
    names = list(schemas.get(name, ()))
    if len(node.args) > len(names):
        raise ValueError
    arguments = {key: _literal(value) for key, value in zip(names, node.args, strict=False)}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError
        arguments[keyword.arg] = _literal(keyword.value)
    json.dumps(arguments, allow_nan=False)
    return name, arguments


def _literal(node: ast.expr) -> Any:
    """What JSON can say, in Python's words or its own."""
    match node:
        case ast.Name(id=name) if name in _OTHER_LITERALS:
            return _OTHER_LITERALS[name]
        case ast.Constant(value=value) if value is None or isinstance(value, (str, int, float)):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)) if isinstance(value, (int, float)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {str(_literal(k)): _literal(v) for k, v in zip(keys, values, strict=True) if k is not None}
    raise ValueError
