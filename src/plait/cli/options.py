"""Command-line options made from their declarations in `config`. Knows click; decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from plait.config import (
    NOT_HERE,
    SAMPLING_OPTIONS,
    EngineOptions,
    OptionInfo,
    from_environment,
    option_fields,
    sampling_default,
)
from plait.errors import RequestError
from plait.types import SamplingParams

REPEATED = {"stop"}  # fields that hold a tuple: the option may be given several times


def _click_option(name: str, default: Any, info: OptionInfo) -> click.Option:
    flags = [name, *info.flags]
    if isinstance(default, bool):
        is_pair = any("/" in flag for flag in info.flags)
        return click.Option(flags, is_flag=True, default=None if is_pair else False, help=info.help)
    if info.choices:
        return click.Option(flags, type=click.Choice(info.choices), help=_with_default(info, default))
    several = name in REPEATED or isinstance(default, tuple)
    kind = float if isinstance(default, float) else str if several or isinstance(default, str) else int
    return click.Option(flags, type=kind, multiple=several, help=_with_default(info, default))


def _with_default(info: OptionInfo, default: Any) -> str:
    said = "" if default in (None, (), "") else f" Default: {default}."
    env = f" Environment: {info.env}." if info.env else ""
    return f"{info.help}{said}{env}"


def model_option() -> click.Option:
    """Which model, of every command that runs one."""
    return click.Option(
        ["model", "-m", "--model"],
        help="A .gguf file, a directory, or a hub id (owner/name, owner/name:Q4_K_M). Default: the bundled model.",
    )


def engine_options(skip: frozenset[str] = frozenset()) -> list[click.Option]:
    """One click option for each declared field of `EngineOptions`. None stands for 'not given'."""
    return declared_options(EngineOptions, skip)


def declared_options(cls: type, skip: frozenset[str] = frozenset()) -> list[click.Option]:
    """One click option for each declared field of `cls`."""
    return [_click_option(n, default, info) for n, _, default, info in option_fields(cls) if n not in skip]


def sampling_options() -> list[click.Option]:
    """One click option for each declared sampling option."""
    return [_click_option(o.name, sampling_default(o.name), o.info) for o in SAMPLING_OPTIONS]


def refused_options(skip: frozenset[str] = frozenset()) -> list[click.Option]:
    """A hidden option for each flag of llama.cpp that Plait does not have: else -ngl would be read as -n gl. `skip`
    names those that this command has after all."""

    def refuse(ctx: click.Context, param: click.Parameter, value: object) -> None:
        if value:
            why = next(text for flags, text in NOT_HERE.items() if param.opts[0] in flags)
            raise click.UsageError(f"{'/'.join(param.opts)} is not an option of plait: {why}", ctx)

    return [
        click.Option(
            [f"refused_{i}", *flags], count=True, hidden=True, expose_value=False, is_eager=True, callback=refuse
        )
        for i, flags in enumerate(NOT_HERE)
        if not skip & set(flags)
    ]


def take_engine_options(values: dict[str, Any]) -> EngineOptions:
    """Remove the engine's fields from parsed `values` and resolve them. Raises `OptionError`."""
    return from_environment(take(values, EngineOptions))


def take(values: dict[str, Any], cls: type) -> dict[str, Any]:
    """Remove the fields of `cls` that were given from parsed `values`."""
    return _take(values, [name for name, *_ in option_fields(cls)])


def take_sampling(values: dict[str, Any], **fixed: Any) -> SamplingParams:
    """Remove the sampling fields from parsed `values`; `fixed` fields win. Raises `RequestError`."""
    given = _take(values, [o.name for o in SAMPLING_OPTIONS])
    if given.get("max_tokens") == -1:
        given["max_tokens"] = None
    try:
        return SamplingParams(**(given | fixed))
    except RequestError as error:
        name, _, rest = str(error).partition(" ")
        flags = next((o.info.flags for o in SAMPLING_OPTIONS if o.name == name), (name,))
        raise RequestError(f"{max(flags, key=len)} {rest}") from None


def _take(values: dict[str, Any], names: list[str]) -> dict[str, Any]:
    taken = {name: values.pop(name) for name in names if name in values}
    return {name: value for name, value in taken.items() if value is not None and value != ()}


def command(name: str, params: list[click.Parameter], callback: Callable[..., None]) -> click.Command:
    """A click command whose help is its callback's docstring."""
    return click.Command(
        name,
        params=params,
        callback=callback,
        help=callback.__doc__,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
