"""What a body says an answer must look like, as a grammar that is known to compile."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from plait.errors import RequestError
from plait.server.bodies import in_field
from plait.server.errors import FieldError
from plait.server.fields import GrammarFields
from plait.types import Grammar, GrammarKind

_KINDS = {"grammar": GrammarKind.GBNF, "regex": GrammarKind.REGEX, "lark": GrammarKind.LARK}


async def checked(kind: GrammarKind, source: str, field: str) -> Grammar:
    """Raises `FieldError` for a grammar that is too long, does not compile or cannot be enforced."""
    try:
        grammar = Grammar(kind, source)
        from plait.tokenizer.grammar import check_grammar

        await asyncio.get_running_loop().run_in_executor(None, check_grammar, grammar)
    except RequestError as error:
        raise in_field(field, error) from None
    return grammar


async def schema_grammar(schema: Any, field: str) -> Grammar:
    """A grammar of a JSON schema, given as an object."""
    if not isinstance(schema, (dict, bool)):
        raise FieldError(f"'{field}' is no JSON schema; give an object", field)
    return await checked(GrammarKind.JSON_SCHEMA, json.dumps(schema), field)


async def own_grammar(body: GrammarFields, *others: str) -> Grammar | None:
    """What the fields say that every body may have. `others` are further fields of it that set a form for the answer.
    Raises `FieldError` for more than one."""
    named = [name for name in GrammarFields.__struct_fields__ if getattr(body, name) not in (None, "")]
    given = [*named, *others]
    if len(given) > 1:
        raise FieldError(f"'{given[0]}' and '{given[1]}' both say what the answer must look like; send one", given[1])
    if not named:
        return None
    source = getattr(body, named[0])
    if named[0] == "json_schema":
        return await schema_grammar(source, "json_schema")
    return await checked(_KINDS[named[0]], source, named[0])
