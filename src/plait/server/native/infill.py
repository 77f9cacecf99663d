"""POST /infill, as llama.cpp's server has it: what goes between two texts, for models that have tokens for it."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from plait.server.context import Server
from plait.server.errors import NotSupportedError
from plait.server.native.bodies import ExtraFile, InfillBody
from plait.server.native.completion import answer
from plait.tokenizer.fim import FimToken
from plait.types import TokenId

REPOSITORY, FILE = "myproject", "filename"
"""Stand for names that a body does not tell; llama.cpp's."""


async def infill(server: Server, request: Request) -> Response:
    """POST /infill. Raises `NotSupportedError` for a model without the tokens."""
    body = await server.work(request, InfillBody)
    marks = [_mark(server, kind) for kind in (FimToken.PREFIX, FimToken.SUFFIX, FimToken.MIDDLE)]
    before, begun, behind = [
        await _plain(server, text) for text in (body.input_prefix, body.prompt or "", body.input_suffix)
    ]
    bos = server.tokenizer.bos_id if server.tokenizer.adds_bos else None
    begin = () if bos is None else (bos,)
    extra = await _extra(server, body.input_extra or ())
    prompt = (*extra, *begin, marks[0], *before, *begun, marks[1], *behind, marks[2])
    return await answer(server, request, body, prompt, body.input_prefix + (body.prompt or ""))


def _mark(server: Server, kind: FimToken) -> TokenId:
    token = server.tokenizer.fim_ids.get(kind)
    if token is None:
        raise NotSupportedError(f"this model has no token for filling in ({kind}); use /completion")
    return token


async def _plain(server: Server, text: str) -> tuple[TokenId, ...]:
    """What the client's text says is text, whatever it looks like."""
    return await server.prompts.encode(text, special=False, parse_special=False)


async def _extra(server: Server, files: Sequence[ExtraFile]) -> list[TokenId]:
    """Other files, each behind its name, and then the name of the one that is filled in."""
    ids: list[TokenId] = []
    if not files:
        return ids
    mark = _mark(server, FimToken.FILE)
    if FimToken.REPOSITORY in server.tokenizer.fim_ids:
        ids += [_mark(server, FimToken.REPOSITORY), *await _plain(server, f"{REPOSITORY}\n")]
    for file in files:
        ids += [mark, *await _plain(server, f"{file.filename}\n"), *await _plain(server, file.text)]
    return [*ids, mark, *await _plain(server, f"{FILE}\n")]
