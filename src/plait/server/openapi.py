"""The published OpenAPI document, derived from the routes and their bodies."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import msgspec

from plait.server.errors import OURS, TABLE

_PARAMETER = re.compile(r"\{(\w+):?(\w*)\}")
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


class _Entry(Protocol):
    @property
    def path(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def handler(self) -> Callable[..., Awaitable[Any]]: ...
    @property
    def body(self) -> type[msgspec.Struct] | None: ...
    @property
    def media(self) -> tuple[str, ...]: ...


def describe(routes: Iterable[_Entry], version: str) -> bytes:
    """The document as JSON."""
    entries = list(routes)
    bodies = list(dict.fromkeys(entry.body for entry in entries if entry.body is not None))
    references, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(bodies, references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for entry in entries:
        path = _PARAMETER.sub(r"{\1}", entry.path)
        paths.setdefault(path, {})[entry.method.lower()] = _operation(entry, schemas)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Plait", "version": version},
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }
    return msgspec.json.encode(document)


def _operation(entry: _Entry, schemas: dict[type[msgspec.Struct], dict[str, Any]]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    statuses = sorted({answer.status for answer in (*TABLE.values(), OURS)})
    found_in: dict[str, Any] = {media: {} for media in entry.media}
    responses: dict[str, Any] = {"200": {"description": "What was asked for", "content": found_in}}
    responses |= {str(status): {"description": "An error", "content": error} for status in statuses}
    summary = (inspect.getdoc(entry.handler) or "").partition("\n\n")[0]
    found: dict[str, Any] = {"summary": summary, "responses": responses}
    parameters = [_parameter(name, kind) for name, kind in _PARAMETER.findall(entry.path)]
    if entry.path == "/slots/{slot}":
        choices = {"type": "string", "enum": ["save", "restore", "erase"]}
        parameters.append({"name": "action", "in": "query", "required": True, "schema": choices})
    if parameters:
        found["parameters"] = parameters
    if entry.body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schemas[entry.body]}}}
    return found


def _parameter(name: str, kind: str) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 0, "maximum": 2**31} if name == "slot" else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}
