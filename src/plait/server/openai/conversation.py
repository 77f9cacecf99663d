"""A chat body as a conversation: messages for the template, the grammar that the answer must follow, how to read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from plait.server.bodies import check_shape
from plait.server.context import Server
from plait.server.errors import FieldError, NotSupportedError
from plait.server.grammars import checked, own_grammar, schema_grammar
from plait.server.openai.bodies import (
    MAX_MESSAGES,
    ChatBody,
    FunctionCall,
    Message,
    ResponseFormat,
    Tool,
    refuse_chat,
    refuse_message,
)
from plait.tokenizer.toolcalls import AnswerFormat, OutputParser, answer_format
from plait.tokenizer.toolcalls.forced import forced_call, holds
from plait.tokenizer.toolcalls.formats import ToolFormat
from plait.types import ChatMessage, Grammar, GrammarKind, TokenId

ROLES = ("system", "developer", "user", "assistant", "tool")
_OWN_VARIABLES = {"messages", "tools", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token"}


@dataclass(frozen=True, slots=True)
class Conversation:
    """What goes to the engine, and how its answer is read. `opener` begins a call that must be made, at the end of the
    prompt; `begun` are the markers of a reasoning that the prompt begins."""

    text: str
    prompt: tuple[TokenId, ...]
    grammar: Grammar | None
    format: AnswerFormat
    schemas: dict[str, dict[str, Any]]
    opener: str = ""
    begun: tuple[str, str] | None = None
    most_calls: int | None = None

    def parser(self) -> OutputParser | None:
        """Reads one answer; None where its text is the content, as it is: what nearly all answers are."""
        if self.format.plain:
            return None
        parser = OutputParser(self.format, self.schemas, self.begun, self.most_calls)
        parser.push(self.opener)
        return parser


async def read_conversation(server: Server, body: ChatBody) -> Conversation:
    """Raises `FieldError` for what cannot be said, `TemplateError` for what the model's template refuses."""
    refuse_chat(body)
    if not body.messages:
        raise FieldError("there are no messages; send at least one", "messages")
    if len(body.messages) > MAX_MESSAGES:
        raise FieldError(f"there are {len(body.messages)} messages; send at most {MAX_MESSAGES}", "messages")
    if server.tokenizer.template_for() is None:
        raise NotSupportedError("this model has no chat template; start with --chat-template, or use /v1/completions")
    messages = [_message(message, f"messages.{i}") for i, message in enumerate(body.messages)]
    tools, forced, may_call = _tools(body)
    variables = body.chat_template_kwargs or {}
    for name in _OWN_VARIABLES & set(variables):
        raise FieldError(f"chat_template_kwargs may not set '{name}'", "chat_template_kwargs")
    text, prompt = await server.prompts.chat(messages, _prefill(body, messages[-1]), tools, _flags(body, variables))
    form = answer_format(server.tokenizer.template_for(tools))
    form = form if may_call else form.without_tools()
    if form.tools is not None:
        _refuse_strict(body, form.tools, forced)
    grammar = await _grammar(body)
    begun, opener = form.reasoning_begun(text), ""
    if form.tools is not None and forced is not None:
        if grammar is not None:
            raise FieldError("a tool is required, and another format for the answer as well; choose one", "tool_choice")
        call = forced_call(form.tools, tools, forced or None)
        grammar, opener = await checked(call.grammar.kind, call.grammar.source, "tools"), call.opener
    added = opener
    if begun and (forced is not None or (grammar and grammar.kind is GrammarKind.JSON_SCHEMA)):
        added, begun = f"\n{begun[1]}\n\n{opener}", None  # what has a form of its own is written without reasoning
    if added:
        text += added
        prompt += await server.prompts.encode(added, special=False)
    schemas = {tool["function"]["name"]: _properties(tool["function"]) for tool in tools}
    most = 1 if body.parallel_tool_calls is False else None
    return Conversation(text, prompt, grammar, form, schemas, opener, begun, most)


def _prefill(body: ChatBody, last: ChatMessage) -> bool:
    """Whether the answer goes on with the last message, as llama.cpp has it, unless the body says."""
    if body.add_generation_prompt is not None or body.continue_final_message is not None:
        return False
    return last.role == "assistant" and not last.extra.get("tool_calls")


def _flags(body: ChatBody, variables: dict[str, Any]) -> dict[str, Any]:
    """What the body says of the end of the prompt, beside the template's variables. Raises `FieldError`."""
    if body.continue_final_message and body.add_generation_prompt:
        raise FieldError("continue_final_message goes on without a generation prompt", "add_generation_prompt")
    if body.continue_final_message:
        return {**variables, "add_generation_prompt": False, "continue_final_message": True}
    return {**variables, "add_generation_prompt": body.add_generation_prompt is not False}


def _properties(function: dict[str, Any]) -> dict[str, Any]:
    """The schemas of a function's arguments. They are the client's: nothing is certain of them."""
    properties = (function.get("parameters") or {}).get("properties")
    return properties if isinstance(properties, dict) else {}


def _message(message: Message, place: str) -> ChatMessage:
    if message.role not in ROLES:
        raise FieldError(f"'{message.role[:40]}' is no role; choose one of {', '.join(ROLES)}", f"{place}.role")
    refuse_message(message, place)
    extra: dict[str, object] = {}
    if message.tool_calls:
        extra["tool_calls"] = [
            {"id": call.id, "type": "function", "function": _called(call.function, f"{place}.tool_calls.{i}")}
            for i, call in enumerate(message.tool_calls)
        ]
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (value := getattr(message, name)) is not None:
            extra[name] = value
    if message.content is None:
        extra["content"] = None
    role = "system" if message.role == "developer" else message.role
    return ChatMessage(role=role, content=_content(message, place), extra=extra)


def _called(function: FunctionCall, place: str) -> dict[str, Any]:
    """Templates want arguments as an object, where they are one."""
    name, arguments = function.name, function.arguments
    check_shape(arguments.encode("utf-8", "replace"), f"{place}.function.arguments")
    try:
        return {"name": name, "arguments": msgspec.json.decode(arguments)}
    except msgspec.DecodeError:
        return {"name": name, "arguments": arguments}


def _content(message: Message, place: str) -> str:
    if message.content is None:
        if message.role != "assistant":
            raise FieldError("a message has no content", f"{place}.content")
        return ""
    if isinstance(message.content, str):
        return message.content
    for i, part in enumerate(message.content):
        if part.type != "text" or part.text is None:
            raise FieldError(
                f"a content part of the type '{part.type[:40]}' is not supported; send text", f"{place}.content.{i}"
            )
    return "".join(part.text or "" for part in message.content)


def _tools(body: ChatBody) -> tuple[list[dict[str, Any]], str | None, bool]:
    """(the tools as templates want them, the name of the one that must be called ("" is any, None is no must), whether
    one may be called)."""
    choice = body.tool_choice
    if not body.tools:
        if choice not in (None, "none", "auto"):
            raise FieldError("tool_choice asks for a tool, and there are no tools", "tool_choice")
        return [], None, False
    for i, tool in enumerate(body.tools):
        if tool.type != "function" or tool.function is None:
            raise FieldError(f"a tool of the type '{tool.type[:40]}' is not supported; send functions", f"tools.{i}")
    tools = [_as_sent(tool) for tool in body.tools]
    names = [tool.function.name for tool in body.tools if tool.function]
    if choice == "none":
        return [], None, False
    if choice in (None, "auto"):
        return tools, None, True
    if choice == "required":
        return tools, "", True
    for name in names:
        if choice == {"type": "function", "function": {"name": name}}:
            return tools, name, True
    raise FieldError("tool_choice is none, auto, required, or names one of the tools", "tool_choice")


def _refuse_strict(body: ChatBody, style: ToolFormat, forced: str | None) -> None:
    """Raises `FieldError` for a strict function that the answer may call without being held to its schema."""
    for i, tool in enumerate(body.tools or ()):
        function, place = tool.function, f"tools.{i}.function.strict"
        if function is None or not function.strict or forced not in (None, "", function.name):
            continue
        if forced is None:
            raise FieldError(f"'{place}' needs tool_choice to be required, or to name the function", place)
        if not holds(style, msgspec.to_builtins(function)):
            raise FieldError(f"'{place}' cannot be kept: texts in calls of the form {style} have no schema", place)


def _as_sent(tool: Tool) -> dict[str, Any]:
    """Templates write a tool as it is: what the client did not send is not there."""
    given = msgspec.to_builtins(tool)
    return {**given, "function": {key: part for key, part in given["function"].items() if part is not None}}


async def _grammar(body: ChatBody) -> Grammar | None:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        _nothing_but(wanted, ())
        return await own_grammar(body)
    own = await own_grammar(body, "response_format")
    assert own is None  # it would be a second one
    if wanted.type == "json_object":
        _nothing_but(wanted, ("schema",))
        return await schema_grammar(wanted.schema or {"type": "object"}, "response_format.schema")
    if wanted.type == "json_schema":
        _nothing_but(wanted, ("json_schema",) if wanted.json_schema else ("schema",))
        schema = wanted.json_schema.schema if wanted.json_schema else wanted.schema
        if schema is None:
            raise FieldError("json_schema has no schema", "response_format.json_schema.schema")
        return await schema_grammar(schema, "response_format.json_schema.schema")
    raise FieldError(
        f"'{wanted.type[:40]}' is no format; choose one of text, json_object, json_schema", "response_format.type"
    )


def _nothing_but(wanted: ResponseFormat | None, names: tuple[str, ...]) -> None:
    """Raises `FieldError` for a part of the format that its type has no use for."""
    for name in ("json_schema", "schema"):
        if wanted is not None and name not in names and getattr(wanted, name) is not None:
            raise FieldError(f"a format of the type {wanted.type} has no '{name}'", f"response_format.{name}")
