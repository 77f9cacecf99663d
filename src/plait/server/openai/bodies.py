"""The bodies of /v1, field for field. A field that is not here is refused by name; so is one listed in `REFUSED`."""

from __future__ import annotations

from typing import Any

import msgspec

from plait.server.bodies import refuse
from plait.server.fields import SamplingFields

MAX_MESSAGES = 4096


class StreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # there is nothing to obfuscate: pieces are as long as their tokens


class CompletionBody(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/completions."""

    prompt: str | list[Any]
    model: str | None = None
    max_tokens: int | None = 16
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None
    suffix: str | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    cache_prompt: bool | None = None


class FunctionCall(msgspec.Struct, kw_only=True):
    name: str
    arguments: str


class ToolCall(msgspec.Struct, kw_only=True):
    function: FunctionCall
    id: str | None = None
    type: str = "function"
    index: int | None = None


class ContentPart(msgspec.Struct, kw_only=True):
    type: str
    text: str | None = None


class Message(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    function_call: Any = None
    audio: Any = None
    annotations: Any = None


class ResponseFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: str
    json_schema: dict[str, Any] | None = None
    schema: dict[str, Any] | None = None


class Function(msgspec.Struct, kw_only=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, kw_only=True):
    type: str
    function: Function | None = None


class ChatBody(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/chat/completions."""

    messages: list[Message]
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    cache_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class EmbeddingBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/embeddings."""

    input: str | list[Any]
    model: str | None = None
    encoding_format: str | None = None
    dimensions: int | None = None
    user: str | None = None
    pooling: str | None = None


def refuse_completion(body: CompletionBody) -> None:
    """Raises `FieldError` for what /v1/completions has at OpenAI and not here."""
    refuse(body.suffix, "suffix", "use /infill with a model made for it")
    if body.best_of not in (None, 1) and body.best_of != (body.n or 1):
        refuse(body.best_of, "best_of", "ask for n samples, and choose")


def refuse_message(message: Message, place: str) -> None:
    """Raises `FieldError` for parts of a message that the server cannot take."""
    for name in ("function_call", "audio"):
        refuse(getattr(message, name), f"{place}.{name}", "send tool_calls and text")
