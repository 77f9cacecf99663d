"""Where chat templates are kept: GGUF metadata, or the files of a Hugging Face directory. Names to sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plait.errors import TokenizerError
from plait.tokenizer.huggingface import read_json

_GGUF_KEY = "tokenizer.chat_template"
DEFAULT = "default"


def from_gguf(metadata: Mapping[str, object]) -> dict[str, str]:
    """`tokenizer.chat_template` is the default; `tokenizer.chat_template.NAME` the one called NAME."""
    templates = {}
    for key, value in metadata.items():
        if isinstance(value, str) and (key == _GGUF_KEY or key.startswith(_GGUF_KEY + ".")):
            templates[key.removeprefix(_GGUF_KEY).removeprefix(".") or DEFAULT] = value
    return templates


def from_directory(folder: Path) -> dict[str, str]:
    """tokenizer_config.json holds one template or a list of named ones; .jinja files, where there are any, win."""
    templates: dict[str, str] = {}
    given = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(given, str):
        templates[DEFAULT] = given
    for entry in given if isinstance(given, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("template"), str):
            templates[str(entry.get("name", DEFAULT))] = entry["template"]
    files = {DEFAULT: folder / "chat_template.jinja"}
    files |= {file.stem: file for file in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    return templates | {name: _read(file) for name, file in files.items() if file.is_file()}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{file}: cannot be read: {error}") from None
