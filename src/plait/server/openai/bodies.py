"""The bodies of /v1, field for field. A field that is not here is refused by name, at any depth; what other servers
have and Plait does not do is in `foreign`.

`user`, `safety_identifier`, `prompt_cache_key` and `metadata` are labels, and taken: they change no answer at OpenAI.
"""

from __future__ import annotations

from typing import Any

import msgspec

from plait.server.bodies import refuse
from plait.server.errors import FieldError
from plait.server.fields import Extension
from plait.server.foreign import LLAMA_CPP, OPENAI, LlamaCppForeign, OpenAIForeign, refuse_foreign, refuse_unequal

MAX_MESSAGES = 4096


class StreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class CompletionBody(LlamaCppForeign, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/completions."""

    prompt: str | list[Any]
    model: str | None = None
    max_tokens: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None
    suffix: str | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    cache_prompt: bool | None = None


class FunctionCall(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    arguments: str


class ToolCall(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    function: FunctionCall
    id: str | None = None
    type: str = "function"
    index: int | None = None


class ContentPart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Of a text. The others are here for a message that names the type."""

    type: str
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: Any = None


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


class JsonSchema(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`strict` false is enforced, too: what fits the schema is what was asked for."""

    name: str | None = None
    description: str | None = None
    schema: Any = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: str
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None


class Function(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: str
    function: Function | None = None


class ChatBody(OpenAIForeign, kw_only=True, forbid_unknown_fields=True):
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
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
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
    plait: Extension | None = None


def refuse_completion(body: CompletionBody) -> None:
    """Raises `FieldError` for what /v1/completions has at OpenAI and not here."""
    refuse_foreign(body, LLAMA_CPP)
    refuse_stream_options(body.stream_options, body.stream)
    refuse(body.suffix or None, "suffix", "use /infill with a model made for it")
    if body.best_of not in (None, 1) and body.best_of != (body.n or 1):
        refuse(body.best_of, "best_of", "ask for n samples, and choose")


def refuse_chat(body: ChatBody) -> None:
    """Raises `FieldError` for what a chat has at OpenAI or llama.cpp and not here, and for fields that contradict."""
    refuse_foreign(body, {**OPENAI, **LLAMA_CPP})
    refuse_stream_options(body.stream_options, body.stream)
    refuse_unequal(body, "max_completion_tokens", "max_tokens")


def refuse_stream_options(options: StreamOptions | None, stream: bool | None) -> None:
    """Raises `FieldError` for options of a stream where there is none, and for padding its events."""
    if options is None:
        return
    if not stream:
        raise FieldError("stream_options needs stream to be true", "stream_options")
    refuse(options.include_obfuscation or None, "stream_options.include_obfuscation", "events are not padded")


def refuse_message(message: Message, place: str) -> None:
    """Raises `FieldError` for parts of a message that the server cannot take. Of an answer that comes back they are
    null or empty, and taken."""
    for name in ("function_call", "audio", "refusal", "annotations"):
        refuse(getattr(message, name) or None, f"{place}.{name}", "send tool_calls and text")
    for i, call in enumerate(message.tool_calls or ()):
        if call.type != "function":
            raise FieldError(f"a call of the type '{call.type[:40]}' is not supported", f"{place}.tool_calls.{i}.type")
