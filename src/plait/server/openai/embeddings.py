"""POST /v1/embeddings, and GET /v1/models."""

from __future__ import annotations

import asyncio
import base64
from array import array
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from plait.server.context import Server
from plait.server.errors import FieldError, NotFoundError
from plait.server.fields import Extension
from plait.server.generation import Generation
from plait.server.leaving import unless_gone
from plait.server.merge import collected
from plait.server.openai.bodies import EmbeddingBody
from plait.server.prompts import MANY
from plait.server.replies import reply
from plait.server.usage import served, total
from plait.types import Pooling, SamplingParams

MAX_INPUTS = 2048


class Pooled(Protocol):
    """What the bodies of both routes for embeddings have."""

    @property
    def pooling(self) -> str | None: ...
    @property
    def plait(self) -> Extension | None: ...


async def embeddings(server: Server, request: Request) -> Response:
    """The route."""
    body = await server.work(request, EmbeddingBody)
    if body.encoding_format not in (None, "float", "base64"):
        raise FieldError(f"'{body.encoding_format}' is no encoding; choose float or base64", "encoding_format")
    if body.dimensions not in (None, server.info.n_embd):
        raise FieldError(f"this model's vectors have {server.info.n_embd} dimensions, and no fewer", "dimensions")
    generations, vectors = await embed(server, request, body, body.input, "input")
    pack = _base64 if body.encoding_format == "base64" else list
    data = [{"object": "embedding", "index": i, "embedding": pack(vector)} for i, vector in enumerate(vectors)]
    usage = total(generations)
    counts = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens, "plait": served(usage)}
    return reply({"object": "list", "data": data, "model": server.model, "usage": counts})


async def embed(
    server: Server, request: Request, body: Pooled, given: str | list[Any], param: str
) -> tuple[list[Generation], list[tuple[float, ...]]]:
    """The vectors of some texts or prompts, given in the field `param`, and how they were made. Raises `FieldError`."""
    pooling = body.pooling
    if given == "" or (isinstance(given, list) and ("" in given or [] in given)):
        raise FieldError(f"the {param} has an empty text; there is nothing to embed", param)
    if pooling not in (None, *Pooling):
        raise FieldError(f"'{pooling}' is no pooling; choose one of {', '.join(Pooling)}", "pooling")
    prompts = [ids for _, ids in await server.prompts.several(given, param, MAX_INPUTS)]
    params = SamplingParams(temperature=0.0, max_tokens=0, seed=0)
    generations: list[Generation] = []
    for number, ids in enumerate(prompts):
        if number % MANY == MANY - 1:
            await asyncio.sleep(0)
        generations.append(server.submit(request, ids, params, body.plait, pooling=Pooling(pooling or Pooling.MEAN)))
    wholes = await unless_gone(request, collected(generations))
    return generations, [samples[0].embedding for samples in wholes]


def _base64(vector: tuple[float, ...]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()


async def models(server: Server, request: Request) -> Response:
    """GET /v1/models."""
    return reply({"object": "list", "data": [_model(server)]})


async def model(server: Server, request: Request) -> Response:
    """GET /v1/models/{model}. Raises `NotFoundError`."""
    name = request.path_params["model"]
    if name != server.model:
        raise NotFoundError(f"there is no model '{name[:100]}' here; this server has '{server.model}'")
    return reply(_model(server))


def _model(server: Server) -> dict[str, Any]:
    info = server.info
    meta = {
        "n_vocab": info.vocab_size,
        "n_ctx_train": info.context_length,
        "n_embd": info.n_embd,
        "n_params": info.n_parameters,
        "size": info.weight_bytes,
    }
    return {"id": server.model, "object": "model", "created": server.started, "owned_by": "plait", "meta": meta}
