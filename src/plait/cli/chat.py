"""`plait chat`: talk with a model in the terminal, in this process or on a server."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import click

from plait.cli.options import (
    command,
    engine_options,
    model_option,
    refused_options,
    sampling_options,
    take,
    take_engine_options,
    take_sampling,
)
from plait.config import SAMPLING_OPTIONS, EngineOptions, option_fields
from plait.errors import OptionError

if TYPE_CHECKING:
    from plait.cli.partners import Partner

DEFAULT_MAX_TOKENS = 1024


def chat(model: str | None, url: str | None, api_key: str | None, system: str, **rest: Any) -> None:
    """Talk with a model. /help lists what else can be typed.

    The model runs in this process; with --url a server answers, with OpenAI's routes, and -m names one of its models.
    """
    if rest.get("max_tokens") is None:
        rest["max_tokens"] = DEFAULT_MAX_TOKENS
    if url is None:
        _chat_here(model, system, rest)
    else:
        _chat_with(url, api_key, model, system, rest)


def _chat_here(model: str | None, system: str, rest: dict[str, Any]) -> None:
    options, params = take_engine_options(rest), take_sampling(rest)

    from plait.api import LLM  # here, so that a wrong option is answered at once
    from plait.cli.loading import loading_bar
    from plait.cli.partners import LocalPartner

    with loading_bar() as progress:
        llm = LLM(model, options=options, progress=progress)
    with llm:
        _talk(LocalPartner(llm, params), system)


def _chat_with(url: str, api_key: str | None, model: str | None, system: str, rest: dict[str, Any]) -> None:
    given = take(rest, EngineOptions)
    for name, _, default, info in option_fields(EngineOptions):
        if given.get(name, default) != default:
            raise OptionError(f"{info.flags[-1]} is the server's to choose; with --url leave it out")
    values = {o.name: rest[o.name] for o in SAMPLING_OPTIONS}
    sampling = {
        name: value for name, value in values.items() if value is not None and value is not False and value != ()
    }
    take_sampling(rest)  # refuses what no server would take either

    from plait.cli.partners import RemotePartner

    _talk(RemotePartner(url, api_key, model, sampling), system)


def _talk(partner: Partner, system: str) -> None:
    from plait.cli.talk import Talk

    if sys.stdin is None:
        raise OptionError("standard input is closed; messages are read from it")
    typed = sys.stdin.isatty() and sys.stdout.isatty()
    if typed:
        importlib.import_module("readline")  # which gives `input` its keys and its history
    print(f"{partner.name}; /help for help, Ctrl-D to end", file=sys.stderr)
    if partner.note:
        print(f"note: {partner.note}", file=sys.stderr)
    Talk(partner, _read_line, system, "> " if typed else "").run()


def _read_line(prompt: str) -> str:
    try:
        return input(prompt)
    except UnicodeDecodeError as error:
        raise OptionError(f"standard input is no text: {error}") from None


_OWN: list[click.Parameter] = [
    model_option(),
    click.Option(["url", "--url"], help="Address of a server with OpenAI's routes, http://127.0.0.1:8000."),
    click.Option(
        ["api_key", "--api-key"], envvar="PLAIT_API_KEY", help="Its key, if it wants one. Environment: PLAIT_API_KEY."
    ),
    click.Option(["system", "-sys", "--system-prompt"], default="", help="The system message."),
]

COMMAND = command(
    "chat",
    [*_OWN, *sampling_options(), *engine_options(), *refused_options(frozenset({"--api-key", "--system-prompt"}))],
    chat,
)
