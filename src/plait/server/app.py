"""The application: routes, the guard around them, and what is published about both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import msgspec
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from plait import __version__
from plait.server import health
from plait.server.context import Server
from plait.server.guard import Guard, Headers
from plait.server.keys import KeyRing
from plait.server.native import bodies as native
from plait.server.native import completion as native_completion
from plait.server.native import infill, tools
from plait.server.openai import bodies as openai
from plait.server.openai import chat, completions, embeddings
from plait.server.openapi import describe
from plait.server.options import ServerOptions
from plait.server.origin import check_page

Handler = Callable[[Server, Request], Awaitable[Response]]


class Entry(NamedTuple):
    """One route: where, how, what it does, what its body is, and the media types of its answer."""

    path: str
    method: str
    handler: Handler
    body: type[msgspec.Struct] | None = None
    media: tuple[str, ...] = ("application/json",)


STREAMED = ("application/json", "text/event-stream")
ROUTES: tuple[Entry, ...] = (
    Entry("/", "GET", health.page, media=("text/html",)),
    Entry("/health", "GET", health.health),
    Entry("/v1/health", "GET", health.health),
    Entry("/metrics", "GET", health.metrics, media=("text/plain",)),
    Entry("/status.json", "GET", health.status),
    Entry("/v1/models", "GET", embeddings.models),
    Entry("/v1/models/{model:path}", "GET", embeddings.model),
    Entry("/v1/completions", "POST", completions.completions, openai.CompletionBody, STREAMED),
    Entry("/v1/chat/completions", "POST", chat.chat, openai.ChatBody, STREAMED),
    Entry("/v1/embeddings", "POST", embeddings.embeddings, openai.EmbeddingBody),
    Entry("/completion", "POST", native_completion.completion, native.CompletionBody, STREAMED),
    Entry("/completions", "POST", native_completion.completion, native.CompletionBody, STREAMED),
    Entry("/infill", "POST", infill.infill, native.InfillBody, STREAMED),
    Entry("/tokenize", "POST", tools.tokenize, native.TokenizeBody),
    Entry("/detokenize", "POST", tools.detokenize, native.DetokenizeBody),
    Entry("/apply-template", "POST", tools.apply_template, openai.ChatBody),
    Entry("/embedding", "POST", tools.embedding, native.EmbeddingBody),
    Entry("/props", "GET", tools.props),
    Entry("/slots", "GET", tools.slots),
    Entry("/slots/{slot}", "POST", tools.slot_action, native.SlotBody),
)


def make_app(server: Server, keys: KeyRing) -> ASGIApp:
    """The whole application, guard and all."""
    routes = [Route(entry.path, _endpoint(server, entry.handler), methods=[entry.method]) for entry in ROUTES]
    described = describe(ROUTES, __version__)

    async def openapi(request: Request) -> Response:
        return Response(described, media_type="application/json")

    routes.append(Route("/openapi.json", openapi, methods=["GET"]))
    guarded: ASGIApp = Guard(Router(routes, redirect_slashes=False), keys, server.gate, _page_check(server.options))
    if server.options.cors_origins:
        guarded = CORSMiddleware(
            guarded, allow_origins=server.options.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    return guarded


def _page_check(options: ServerOptions) -> Callable[[Headers], None]:
    """By names only this machine itself can be called at an address that only it can reach."""
    names = None if options.is_public else options.allowed_host
    return partial(check_page, names=names, origins=options.cors_origins)


def _endpoint(server: Server, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await handler(server, request)

    return endpoint
