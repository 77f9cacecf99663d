"""/health over HTTP in the states that a real engine is in for a moment only."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest

from plait.formats.hub import resolve_model
from plait.server.app import make_app
from plait.server.keys import KeyRing
from plait.server.options import ServerOptions
from plait.server.serve import http_server, listen, make_server
from plait.supervisor.client import EngineState, Health
from plait.tokenizer.tokenizer import Tokenizer


class Client:
    """An engine of which nothing but its health is asked."""

    info = None

    def __init__(self, health: Health) -> None:
        self._health = health

    def health(self) -> Health:
        return self._health


def get(listener: socket.socket) -> tuple[int, dict[str, Any]]:
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/health"
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize(
    ("health", "status", "said"),
    [
        (Health(state=EngineState.READY), 200, "ok"),
        (Health(state=EngineState.READY, degraded=True, reason="slow"), 200, "degraded"),
        (Health(state=EngineState.STARTING, reason="the engine starts"), 503, "starting"),
        (Health(state=EngineState.RESTARTING, reason="it ended"), 503, "restarting"),
        (Health(state=EngineState.DRAINING, reason="the server is stopping"), 503, "draining"),
        (Health(state=EngineState.FAILED, reason="again and again"), 503, "failed"),
    ],
)
def test_every_state_has_its_status(health: Health, status: int, said: str) -> None:
    options = ServerOptions(port=0)

    async def main() -> tuple[int, dict[str, Any]]:
        server = make_server(Client(health), Tokenizer.load(resolve_model(None)), options)  # type: ignore[arg-type]
        listener, http = listen(options), http_server(make_app(server, KeyRing([])), options)
        serving = asyncio.ensure_future(http.serve(sockets=[listener]))
        found = await asyncio.get_running_loop().run_in_executor(None, get, listener)
        http.should_exit = True
        await serving
        server.prompts.close()
        return found

    found, body = asyncio.run(main())
    assert (found, body["status"], body["state"], body["reason"]) == (status, said, health.state, health.reason)
