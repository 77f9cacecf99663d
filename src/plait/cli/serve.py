"""`plait serve`: the model over HTTP."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from plait.cli.options import (
    command,
    declared_options,
    engine_options,
    model_option,
    refused_options,
    take,
    take_engine_options,
)
from plait.config import SupervisorOptions, resolve
from plait.server.options import ServerOptions


def serve(model: str | None, verbose: bool, **rest: Any) -> None:
    """Serve a model over HTTP, with OpenAI's routes and those of llama.cpp's server.

    The engine runs in a process of its own, which is watched and started anew after a crash: streams go on where they
    were. Ctrl-C or SIGTERM lets running requests end; a second one ends them.
    """
    server = resolve(ServerOptions, take(rest, ServerOptions))
    supervisor = resolve(SupervisorOptions, take(rest, SupervisorOptions))
    engine = take_engine_options(rest)

    import logging

    logging.getLogger("plait").setLevel(logging.INFO if verbose or server.log_prompts else logging.WARNING)
    from plait.formats.hub import resolve_model
    from plait.server.serve import serve as run_server
    from plait.tokenizer.plain_templates import given_template
    from plait.tokenizer.tokenizer import Tokenizer

    path = resolve_model(model)  # here, so that a missing model is one line at once

    def say(line: str) -> None:
        print(f"plait: {line}", file=sys.stderr, flush=True)

    template = given_template(server.chat_template) if server.chat_template else None

    def tokenizer() -> Tokenizer:
        own = Tokenizer.load(path)
        return own if template is None else own.with_template(template)

    asyncio.run(run_server(str(path), tokenizer, engine, supervisor, server, say))


_OWN: list[click.Parameter] = [
    model_option(),
    click.Option(["verbose", "-v", "--verbose"], is_flag=True, help="Log every request."),
]

COMMAND = command(
    "serve",
    [
        *_OWN,
        *declared_options(ServerOptions),
        *declared_options(SupervisorOptions),
        *engine_options(),
        *refused_options(frozenset({"--slot-save-path", "--api-key", "--chat-template"})),
    ],
    serve,
)
