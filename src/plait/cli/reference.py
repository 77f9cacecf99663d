"""The options reference, generated: `python -m plait.cli.reference > docs/reference/options.md`."""

from __future__ import annotations

from importlib import import_module

import click

from plait.cli.main import COMMANDS
from plait.config import NOT_HERE

_ARGUMENTS = {"OUT": "the file to write", "REPO": "a hub id: owner/name, owner/name:FILE.gguf or owner/name:Q4_K_M"}


def options_reference() -> str:
    """Markdown: a table of options for each command, from their declarations."""
    lines = ["# Options", "", "Generated from their declarations: `python -m plait.cli.reference`.", ""]
    for name, (module, text) in COMMANDS.items():
        command: click.Command = import_module(module).COMMAND
        lines += [f"## plait {name}", "", text, "", "| option | values | meaning |", "|---|---|---|"]
        for param in command.params:
            if isinstance(param, click.Option) and param.hidden:
                continue
            if isinstance(param, click.Option):
                flags = ", ".join(f"`{flag}`" for flag in [*param.opts, *param.secondary_opts])
                lines.append(f"| {flags} | {_values(param)} | {param.help} |")
            else:
                name = str(param.name).upper()
                lines.append(f"| `{name}` | text | {_ARGUMENTS.get(name, 'a file, a directory or a hub id')} |")
        lines.append("")
    lines += ["## Flags of llama.cpp's that Plait does not have", "", "| flag | instead |", "|---|---|"]
    lines += [f"| {', '.join(f'`{flag}`' for flag in flags)} | {why} |" for flags, why in NOT_HERE.items()]
    lines.append("")
    return "\n".join(lines)


def _values(param: click.Option) -> str:
    if param.is_flag:
        return ""
    if isinstance(param.type, click.Choice):
        return ", ".join(map(str, param.type.choices))
    kind = {"integer": "a whole number", "float": "a number"}.get(param.type.name, "text")
    return f"{kind}, repeatable" if param.multiple else kind


if __name__ == "__main__":
    print(options_reference(), end="")
