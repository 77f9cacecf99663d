"""Chat templates: Jinja in a sandbox, with the variables and functions that published templates expect.

A template comes from a model file, so it is not trusted: it can reach no attribute of Python's, and what it computes
is bounded (see `limits`). Any failure is a `TemplateError`. Knows messages and text, no tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser

from plait.errors import TemplateError
from plait.tokenizer.limits import BoundedEnvironment, Budget, bounded_join
from plait.types import ChatMessage


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant wrote, for training. Here it is only its content."""

    tags = {"generation"}  # noqa: RUF012  # Jinja reads it from the class

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class ChatTemplate:
    """A compiled template. `name` stands for its model in messages; `now` is what `strftime_now` reads."""

    def __init__(self, source: str, name: str, now: Callable[[], datetime] = datetime.now) -> None:
        """Raises `TemplateError` for one that does not compile."""
        self._name = name
        environment = BoundedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _GenerationTag]
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        environment.set_filter("tojson", _to_json)
        self._environment = environment
        self._asks_for_none = _ASKS_FOR_NONE.search(source) is not None
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # recursion and overflow too: a template is input from outside
            raise TemplateError(f"{name}: the chat template does not compile: {_reason(error)}") from None

    def render(
        self,
        messages: Sequence[ChatMessage],
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **extra: object,
    ) -> str:
        """The prompt for `messages`, as transformers 5 has it. `extra` are further variables: bos_token, eos_token,
        tools, ... With `continue_final_message` it ends in the last message's text, for the model to go on.

        Raises `TemplateError` if the template refuses the messages, fails, or computes beyond all measure.
        """
        variables: dict[str, object] = {"tools": None, "documents": None, **extra}
        turns = [self._as_mapping(message) for message in messages]
        last = _tag(turns) if continue_final_message else ""
        if last is None:
            raise TemplateError(f"{self._name}: the last message has no text that could be continued")
        variables["messages"] = turns
        variables["add_generation_prompt"] = add_generation_prompt
        text = self._text(variables)
        return self._cut(text, last) if continue_final_message else text

    def _text(self, variables: Mapping[str, object]) -> str:
        try:
            with self._environment.spending(Budget()):
                return bounded_join(self._template.generate(variables))
        except Exception as error:  # whatever it is, it is this template with these messages
            raise TemplateError(f"{self._name}: the chat template failed: {_reason(error)}") from None

    def _as_mapping(self, message: ChatMessage) -> dict[str, object]:
        """What is None is not there. But a template that asks whether the content is none means the None of a message
        that only calls tools; to all others that is an empty text."""
        found = {"role": message.role, "content": message.content, **message.extra}
        reasoning = next((found[name] for name in _REASONING if found.get(name) is not None), None)
        if reasoning is not None:  # under the names that templates know it by
            found = {"thinking": reasoning, **found, "reasoning_content": reasoning}
        none = {"content": None if self._asks_for_none else ""} if found["content"] is None else {}
        return {**{key: value for key, value in found.items() if value is not None}, **none}

    def _cut(self, text: str, last: str) -> str:
        place = text.rfind(_TAG.strip())
        if place < 0 or last.strip() not in text:
            raise TemplateError(f"{self._name}: the chat template leaves out what is to be continued")
        return text[:place] if text.startswith(_TAG, place) else text[:place].rstrip()


_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
_REASONING = ("reasoning_content", "thinking", "reasoning")
_ASKS_FOR_NONE = re.compile(r"""content['"]?\]?\s+is\s+(not\s+)?none""")


def _tag(turns: list[dict[str, object]]) -> str | None:
    """Put the tag behind the last text, and return that; None where there is none."""
    match turns and turns[-1].get("content"):
        case str(text):
            turns[-1]["content"] = text + _TAG
            return text
        case [*parts]:
            for i in range(len(parts) - 1, -1, -1):
                match parts[i]:
                    case {"text": str(text), **rest}:
                        parts[i] = {**rest, "text": text + _TAG}
                        turns[-1]["content"] = parts
                        return text
    return None


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter would escape <, > and & for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:500]
    where = f" (line {error.lineno})" if isinstance(error, jinja2.TemplateSyntaxError) else ""
    return f"{text or type(error).__name__}{where}"
