"""JSON that must be an object: config.json, an index, a safetensors header. Knows the errors; knows no key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plait.errors import ModelFileError
from plait.formats.mapped import map_file

MAX_JSON_BYTES = 256 << 20


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in the file `path`. Raises `ModelNotFoundError` if there is none, `ModelFileError` for a defect."""
    file = map_file(path)
    if file.size > MAX_JSON_BYTES:
        raise ModelFileError(path, f"is {file.size} bytes of JSON; at most {MAX_JSON_BYTES} are allowed")
    return parse_json_object(file.data[:], path, "the file", file.looks_like())


def parse_json_object(data: bytes, path: Path, what: str, looks_like: str) -> dict[str, Any]:
    """The object in `data`, a part (`what`) of `path`. A key that appears twice is refused, at any depth."""
    try:
        parsed = json.loads(data, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        reason = f"{what} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise ModelFileError(path, f"{reason}; it looks like {looks_like}") from None
    except RecursionError:
        raise ModelFileError(path, f"{what} is JSON nested too deeply") from None
    except ValueError as error:  # a key twice, bytes that are no text, a number of thousands of digits
        raise ModelFileError(path, f"{what} is not valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ModelFileError(path, f"{what} is not a JSON object but a {type(parsed).__name__}")
    return parsed


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:200]!r} appears twice")
    return unique
