"""A server from its options to its end: the engine process, the application, signals.

SIGTERM or Ctrl-C drains: new requests are answered 503, what runs may end within the bound, the rest is handed back. A
second one ends at once. When the engine has failed for good, so does the server: only who started it can mend that.
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
from plait.errors import EngineDownError, OptionError
from plait.server.app import make_app
from plait.server.connection import Connection
from plait.server.context import Server
from plait.server.keys import Gate, KeyLimits, KeyRing, read_keys
from plait.server.options import ServerOptions
from plait.server.prompts import Prompts
from plait.supervisor.client import EngineClient, EngineInfo
from plait.supervisor.supervisor import Supervisor
from plait.tokenizer.tokenizer import Tokenizer

BACKLOG = 2048
LAST_BYTES_S = 5.0
LAST_BYTES_AT_ONCE_S = 0.5
"""Readers have so long to take the end of their answers; the second after the second signal."""
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
    """Run until a signal says otherwise. `say` prints a line for a person. Raises what loading the model raised, and
    `EngineDownError` when the engine has failed for good: nobody would start it anew, so to answer 503 for ever would
    hide from whoever watches this process that it is of no more use."""
    keys, listener = key_ring(options), listen(options)
    if options.is_public and not keys.required:
        say(f"warning: {options.host} can be reached by others, and no key is asked for; see --api-key")
    supervisor = Supervisor(model, engine_options, supervisor_options)
    await supervisor.start()
    try:
        words = await asyncio.get_running_loop().run_in_executor(None, tokenizer)
        server = make_server(supervisor, words, options)
        http = http_server(make_app(server, keys), options)
        await _run(supervisor, http, listener, options, supervisor_options.drain_timeout, say)
        server.prompts.close()
    finally:
        await supervisor.stop(0.0, last_words_s=0.0)  # nothing is left, but after an error
        listener.close()


async def _run(
    supervisor: Supervisor,
    http: uvicorn.Server,
    listener: socket.socket,
    options: ServerOptions,
    drain_s: float,
    say: Callable[[str], None],
) -> None:
    stop = _Signals()
    ready, gave_up = asyncio.ensure_future(supervisor.ready()), asyncio.ensure_future(supervisor.gave_up())
    serving = asyncio.ensure_future(http.serve(sockets=[listener]))
    try:
        ends: set[asyncio.Future[Any]] = {serving, stop.first, gave_up}
        await asyncio.wait({ready, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() or gave_up.done():  # of a failed load, `ready` knows the very error
            say(_address(await ready, listener, options))
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not (failed := gave_up.done()):
            say("stopping: what runs may end; a second signal ends it now")
    finally:
        for one in (ready, gave_up):
            one.cancel()
        await _drain(supervisor, drain_s, stop)
        await _close(http, serving, stop)
    if failed:
        raise EngineDownError(f"the server ends, since its engine has: {gave_up.result()}")


def _address(info: EngineInfo, listener: socket.socket, options: ServerOptions) -> str:
    scheme = "https" if options.ssl_cert_file else "http"
    host, port = listener.getsockname()[:2]
    return f"{info.model} ({info.device}) at {scheme}://{f'[{host}]' if ':' in host else host}:{port}"


async def _drain(supervisor: Supervisor, seconds: float, stop: _Signals) -> None:
    draining = asyncio.ensure_future(supervisor.stop(seconds))
    await asyncio.wait({draining, stop.second}, return_when=asyncio.FIRST_COMPLETED)
    if draining.done():
        draining.result()
        return
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)
    await supervisor.stop(0.0, last_words_s=0.0)


async def _close(http: uvicorn.Server, serving: asyncio.Future[None], stop: _Signals) -> None:
    """All streams have their end: it is to be written out, and then nobody listens any more."""
    http.should_exit = True
    await asyncio.wait({serving, stop.second}, return_when=asyncio.FIRST_COMPLETED, timeout=LAST_BYTES_S)
    if stop.second.done():
        await asyncio.wait({serving}, timeout=LAST_BYTES_AT_ONCE_S)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


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
        timeout_graceful_shutdown=int(LAST_BYTES_S),
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
