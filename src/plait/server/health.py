"""How the server is: /health without the engine, /metrics and the status page with it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from plait.errors import EngineDownError
from plait.metrics.histogram import HistogramData
from plait.metrics.prometheus import CONTENT_TYPE, prometheus_text
from plait.metrics.snapshot import Snapshot
from plait.server.context import Server
from plait.server.replies import reply
from plait.supervisor.client import EngineState, EngineStatus

STATUS_PAGE = "status.html"


async def health(server: Server, request: Request) -> Response:
    """GET /health: 200 when requests are answered, 503 otherwise; always with the state and why."""
    found = server.client.health()
    ready = found.state is EngineState.READY
    body = {"status": "degraded" if ready and found.degraded else "ok" if ready else str(found.state)}
    return reply({**body, **msgspec.to_builtins(found)}, 200 if ready else 503)


async def metrics(server: Server, request: Request) -> Response:
    """GET /metrics, in Prometheus' text format."""
    return Response(prometheus_text(_snapshot(await server.client.status())), media_type=CONTENT_TYPE)


def _snapshot(status: EngineStatus) -> Snapshot:
    histograms = {
        name: HistogramData(tuple(bounds), tuple(counts), total)
        for name, (bounds, counts, total) in status.histograms.items()
    }
    return Snapshot(0.0, status.metrics, histograms)


async def status(server: Server, request: Request) -> Response:
    """GET /status.json: everything that the status page shows."""
    info, found = server.client.info, server.client.health()
    body: dict[str, Any] = {"info": info, "health": found, "open_requests": server.gate.open}
    try:
        body |= msgspec.to_builtins(await server.client.status())
    except EngineDownError as error:
        body["error"] = str(error)
    return reply(body)


async def page(server: Server, request: Request) -> Response:
    """GET /: the status page."""
    text = files("plait.server").joinpath("static", STATUS_PAGE).read_bytes()
    policy = "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
    return Response(text, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy})
