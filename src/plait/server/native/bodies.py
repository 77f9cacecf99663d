"""The bodies of llama.cpp's routes. A field that is not here is refused by name."""

from __future__ import annotations

from typing import Any

import msgspec

from plait.server.fields import Extension
from plait.server.foreign import LlamaCppForeign


class NativeBody(LlamaCppForeign, kw_only=True, forbid_unknown_fields=True):
    """What /completion and /infill share."""

    n_predict: int | None = None
    max_tokens: int | None = None
    n_probs: int | None = None
    cache_prompt: bool | None = None
    id_slot: int | None = None
    return_tokens: bool | None = None
    timings_per_token: bool | None = None
    model: str | None = None


class CompletionBody(NativeBody, kw_only=True, forbid_unknown_fields=True):
    """POST /completion."""

    prompt: str | list[Any]


class ExtraFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Another file of the same repository."""

    text: str
    filename: str = "tmp"


class InfillBody(NativeBody, kw_only=True, forbid_unknown_fields=True):
    """POST /infill."""

    input_prefix: str
    input_suffix: str
    prompt: str | None = None
    input_extra: list[ExtraFile] | None = None


class TokenizeBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    tokens: list[int]


class EmbeddingBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    content: str | list[Any] | None = None
    input: str | list[Any] | None = None
    pooling: str | None = None
    plait: Extension | None = None


class SlotBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    filename: str | None = None
    prompt: str | list[int] | None = None
    plait: Extension | None = None
