"""The small routes of llama.cpp's server: tokens, templates, embeddings, properties, slots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from plait import __version__
from plait.server.context import Server
from plait.server.errors import FieldError, NotFoundError, NotSupportedError
from plait.server.foreign import refuse_unequal
from plait.server.native.bodies import DetokenizeBody, EmbeddingBody, SlotBody, TokenizeBody
from plait.server.native.completion import DEFAULTS, settings_of
from plait.server.openai.bodies import ChatBody
from plait.server.openai.conversation import read_conversation
from plait.server.openai.embeddings import embed
from plait.server.prompts import SHORT
from plait.server.replies import reply
from plait.server.usage import served
from plait.tokenizer.tokenizer import Tokenizer
from plait.types import TokenId

MAX_DIGITS = 9
MAX_NAME = 100


async def tokenize(server: Server, request: Request) -> Response:
    """POST /tokenize."""
    body = await server.body(request, TokenizeBody)
    ids = await server.prompts.encode(body.content, body.add_special, body.parse_special)
    if not body.with_pieces:
        return reply({"tokens": ids})
    return await server.prompts.aside(len(ids), SHORT, lambda: reply({"tokens": _pieces(server.tokenizer, ids)}))


def _pieces(tokenizer: Tokenizer, ids: Sequence[TokenId]) -> list[dict[str, Any]]:
    return [{"id": one, "piece": _piece(tokenizer.token_bytes(one))} for one in ids]


def _piece(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


async def detokenize(server: Server, request: Request) -> Response:
    """POST /detokenize."""
    body = await server.body(request, DetokenizeBody)
    return reply({"content": await server.prompts.decode(await server.prompts.checked(body.tokens, "tokens"))})


async def apply_template(server: Server, request: Request) -> Response:
    """POST /apply-template."""
    return reply({"prompt": (await read_conversation(server, await server.body(request, ChatBody))).text})


async def embedding(server: Server, request: Request) -> Response:
    """POST /embedding."""
    body = await server.work(request, EmbeddingBody)
    refuse_unequal(body, "content", "input")
    param = "input" if body.content is None else "content"
    given = body.input if body.content is None else body.content
    if given is None:
        raise FieldError("the field 'content' is missing", "content")
    generations, vectors = await embed(server, request, body, given, param)
    return reply(
        [
            {
                "index": i,
                "embedding": [vector],
                "tokens_evaluated": one.usage.prompt_tokens,
                "plait": served(one.usage),
            }
            for i, (one, vector) in enumerate(zip(generations, vectors, strict=True))
        ]
    )


async def props(server: Server, request: Request) -> Response:
    """GET /props."""
    info = server.info
    defaults = {"id": 0, "n_ctx": info.context_length, "params": settings_of(DEFAULTS)}
    return reply(
        {
            "default_generation_settings": defaults,
            "total_slots": await _limit(server, "n_parallel"),
            "model_path": info.model,
            "model_alias": server.model,
            "chat_template": server.tokenizer.chat_template or "",
            "modalities": {"vision": False, "audio": False},
            "build_info": f"plait {__version__}",
        }
    )


async def _limit(server: Server, name: str) -> int:
    status = await server.client.status()
    return int(status.metrics.get("plait_limit", {}).get(name, 0))


async def slots(server: Server, request: Request) -> Response:
    """GET /slots: the running requests, each as if it had a slot."""
    status = await server.client.status()
    found: list[dict[str, Any]] = []
    for number, one in enumerate(status.running):
        found.append(
            {
                "id": number,
                "id_task": one.request_id,
                "n_ctx": server.info.context_length,
                "is_processing": one.phase != "waiting",
                "phase": one.phase,
                "priority": one.priority,
                "n_prompt_tokens": one.prompt_tokens,
                "n_prompt_tokens_cache": one.cached_tokens,
                "n_decoded": one.generated_tokens,
                "age_s": one.age_s,
            }
        )
    return reply(found)


async def slot_action(server: Server, request: Request) -> Response:
    """POST /slots/{id}?action=save|restore|erase. Sequences have no slots here: what is saved or erased is what the
    cache holds of the `prompt` in the body, under the request's salt, and what is restored serves every prompt of that
    salt that begins so. A key sees its own files only, unless keys share prefixes."""
    action, slot = request.query_params.get("action"), _slot_number(request.path_params["slot"])
    if action not in ("save", "restore", "erase"):
        raise FieldError("give action=save, restore or erase", "action")
    body = await server.work(request, SlotBody)
    service = server.service(request, body.plait)
    if action == "erase":
        count = await server.client.erase_prefix(await _named(server, body), service.salt, service.salt_from)
        return reply({"id_slot": slot, "n_erased": count})
    if not server.options.slot_save_path:
        raise NotSupportedError("start the server with --slot-save-path to save and restore")
    owner = "" if server.options.share_prefixes else request.state.seat.tenant
    file = _slot_file(server.options.slot_save_path, body.filename, owner)
    if action == "save":
        count = await server.client.save_prefix(await _named(server, body), file, service.salt, service.salt_from)
        return reply({"id_slot": slot, "filename": body.filename, "n_saved": count})
    if not Path(file).is_file():
        raise NotFoundError(f"there is no saved file {body.filename}")
    count = await server.client.restore_prefix(file, service.salt, service.salt_from)
    return reply({"id_slot": slot, "filename": body.filename, "n_restored": count})


async def _named(server: Server, body: SlotBody) -> tuple[TokenId, ...]:
    if body.prompt is None:
        raise FieldError("sequences have no slots here: say with 'prompt' (text or token ids) which one", "prompt")
    if isinstance(body.prompt, str):
        return await server.prompts.encode(body.prompt)
    return await server.prompts.checked(body.prompt)


def _slot_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise FieldError("the id of a slot is a whole number", "id")
    return int(text)


def _slot_file(folder: str, name: str | None, owner: str) -> str:
    if not name or len(name) > MAX_NAME or not name.isprintable() or Path(name).name != name or name.startswith("."):
        raise FieldError("filename is a plain name of a file", "filename")
    return str(Path(folder) / (f"{owner}.{name}" if owner else name))
