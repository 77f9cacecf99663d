"""A server from its options to its end: the engine process, the application, signals.

SIGTERM or Ctrl-C drains: no new connection, what runs may end within the bound. A second one ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn

from plait.config import EngineOptions, SupervisorOptions
from plait.errors import OptionError
from plait.server.app import make_app
from plait.server.connection import Connection
from plait.server.context import Server
from plait.server.keys import Gate, KeyLimits, KeyRing, read_keys
from plait.server.options import ServerOptions
from plait.server.prompts import Prompts
from plait.supervisor.client import EngineClient
from plait.supervisor.supervisor import Supervisor
from plait.tokenizer.tokenizer import Tokenizer

BACKLOG = 2048
_log = logging.getLogger("plait.server")


def key_ring(options: ServerOptions) -> KeyRing:
    """The keys of the options and of the file. Raises `OptionError`."""
    keys = [*options.api_key, *(read_keys(options.api_key_file) if options.api_key_file else ())]
    if options.api_key_file and not keys:
        raise OptionError(f"--api-key-file: {options.api_key_file} holds no key")
    return KeyRing(keys)


def make_server(client: EngineClient, tokenizer: Tokenizer, options: ServerOptions) -> Server:
    """The parts that the routes are handed."""

    def context() -> int:
        return client.info.context_length if client.info else 1 << 20

    limits = KeyLimits(options.key_requests, options.key_tokens, options.key_rpm, options.key_tpm)
    gate = Gate(limits, options.max_connections)
    return Server(client, tokenizer, Prompts(tokenizer, context), gate, options, int(time.time()))


def listen(options: ServerOptions) -> socket.socket:
    """The listening socket. Raises `OptionError` where the address cannot be had."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # The protocol is named, or asyncio leaves Nagle's delay on: 40 ms for each answer of two writes.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OptionError(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}") from None
    return listener


async def serve(
    model: str | None,
    tokenizer: Callable[[], Tokenizer],
    engine_options: EngineOptions,
    supervisor_options: SupervisorOptions,
    options: ServerOptions,
    say: Callable[[str], None],
) -> None:
    """Run until a signal says otherwise. `say` prints a line for a person. Raises what loading the model raised."""
    keys, listener = key_ring(options), listen(options)
    if options.is_public and not keys.required:
        say(f"warning: {options.host} can be reached by others, and no key is asked for; see --api-key")
    supervisor = Supervisor(model, engine_options, supervisor_options)
    await supervisor.start()
    server = make_server(supervisor, await asyncio.get_running_loop().run_in_executor(None, tokenizer), options)
    http = http_server(make_app(server, keys), options)
    serving = asyncio.ensure_future(http.serve(sockets=[listener]))
    ready = asyncio.ensure_future(supervisor.ready())
    stop = _Signals()
    try:
        waited: list[asyncio.Future[Any]] = [ready, serving, stop.first]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            info = ready.result()
            scheme = "https" if options.ssl_cert_file else "http"
            host, port = listener.getsockname()[:2]
            say(f"{info.model} ({info.device}) at {scheme}://{f'[{host}]' if ':' in host else host}:{port}")
            await asyncio.wait({serving, stop.first}, return_when=asyncio.FIRST_COMPLETED)
        say("stopping: what runs may end; a second signal ends it now")
    finally:
        ready.cancel()
        await _drain(supervisor, supervisor_options.drain_timeout, http, serving, stop)
        server.prompts.close()
        listener.close()


async def _drain(
    supervisor: Supervisor, seconds: float, http: uvicorn.Server, serving: asyncio.Future[None], stop: _Signals
) -> None:
    draining = asyncio.ensure_future(supervisor.stop(seconds))
    await asyncio.wait({draining, stop.second}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        draining.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await draining
        await supervisor.stop(0.0)
    http.should_exit = True
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(serving, 5.0)


def http_server(app: object, options: ServerOptions) -> uvicorn.Server:
    """uvicorn around the application, without signal handlers."""
    return _Http(_uvicorn(app, options))


def _uvicorn(app: object, options: ServerOptions) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=partial(  # type: ignore[arg-type]  # a factory will do
            Connection, send_timeout=options.send_timeout, receive_timeout=options.receive_timeout
        ),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=30,
        ssl_certfile=options.ssl_cert_file or None,
        ssl_keyfile=options.ssl_key_file or None,
        timeout_graceful_shutdown=5,
    )


class _Http(uvicorn.Server):
    """uvicorn without signal handlers: signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # as uvicorn declares it
        yield


class _Signals:
    """Two futures: the first and the second SIGTERM or SIGINT."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[None] = loop.create_future()
        self.second: asyncio.Future[None] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._came)

    def _came(self) -> None:
        target = self.second if self.first.done() else self.first
        if not target.done():
            target.set_result(None)
