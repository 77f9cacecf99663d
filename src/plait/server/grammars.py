"""What a body says an answer must look like, as a grammar that is known to compile."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from plait.errors import RequestError
from plait.server.bodies import in_field
from plait.server.errors import FieldError
from plait.types import Grammar, GrammarKind


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


async def own_grammar(grammar: str | None, json_schema: Any) -> Grammar | None:
    """What llama.cpp's two fields say, which every body may have."""
    if grammar:
        return await checked(GrammarKind.GBNF, grammar, "grammar")
    return None if json_schema is None else await schema_grammar(json_schema, "json_schema")
