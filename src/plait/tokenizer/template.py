"""Chat templates: Jinja in a sandbox, with the variables and functions that published templates expect.

A template comes from a model file, so it is not trusted: it can reach no attribute of Python's, and what it computes
is bounded (see `limits`). Any failure is a `TemplateError`. Knows messages and text, no tokenizer.
"""

from __future__ import annotations

import json
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
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # recursion and overflow too: a template is input from outside
            raise TemplateError(f"{name}: the chat template does not compile: {_reason(error)}") from None

    def render(self, messages: Sequence[ChatMessage], add_generation_prompt: bool = True, **extra: object) -> str:
        """The prompt for `messages`. `extra` are further variables: bos_token, eos_token, tools, ...

        Raises `TemplateError` if the template refuses the messages, fails, or computes beyond all measure.
        """
        variables: dict[str, object] = {"tools": None, "documents": None, **extra}
        variables["messages"] = [_as_mapping(message) for message in messages]
        variables["add_generation_prompt"] = add_generation_prompt
        try:
            with self._environment.spending(Budget()):
                return bounded_join(self._template.generate(variables))
        except Exception as error:  # whatever it is, it is this template with these messages
            raise TemplateError(f"{self._name}: the chat template failed: {_reason(error)}") from None


def _as_mapping(message: ChatMessage) -> Mapping[str, object]:
    return {"role": message.role, "content": message.content, **message.extra}


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
