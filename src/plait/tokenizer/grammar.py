"""Grammars as llguidance takes them, and whether they compile.

Knows the four kinds of source; knows no vocabulary, no arrays and no matching (that is `engine.grammar`), so that a
process without an engine can refuse a request at once. What cannot be enforced exactly is an error: a schema keyword
that is not implemented is never ignored.
"""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher, LLParserLimits

from plait.errors import RequestError
from plait.tokenizer.deep import deep_thread
from plait.tokenizer.gbnf import lark_of
from plait.types import Grammar, GrammarKind

MAX_CHARACTERS = 128 * 1024
MAX_DEPTH = 64
"""Levels of brackets in a source, or of objects and arrays in a schema."""
WHITESPACE = r"( |\n{1,2}[ \t]{0,20})?"
"""Between the parts of JSON, as llama.cpp has it: without a bound a small model may write nothing else for ever."""
LIMITS = LLParserLimits(verbose_errors=False, initial_lexer_fuel=250_000)
"""A quarter of llguidance's own fuel: what takes more takes seconds, and then mostly fails."""
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_MOST_SAID = 200


def check_grammar(grammar: Grammar) -> None:
    """Compile the grammar, and forget it. Raises `RequestError`, in one sentence, for one that does not compile, that
    asks for what cannot be enforced, or that is larger or nested more deeply than anybody needs."""
    problem = deep_thread(lambda: LLMatcher.validate_grammar_with_warnings(source_of(grammar), limits=LIMITS))
    if problem[1]:
        raise refused(grammar, problem[1][0])


def source_of(grammar: Grammar) -> str:
    """The grammar in llguidance's own form. Raises `RequestError` for a source that is not even well-formed."""
    source = grammar.source
    if len(source) > MAX_CHARACTERS:
        raise refused(grammar, f"it has {len(source)} characters, and no more than {MAX_CHARACTERS} are taken")
    if grammar.kind is GrammarKind.JSON_SCHEMA:
        return _from_schema(grammar)
    if _depth(source) > MAX_DEPTH:
        raise refused(grammar, f"its brackets are nested more than {MAX_DEPTH} deep")
    if grammar.kind is GrammarKind.REGEX:
        return LLMatcher.grammar_from_regex(source)
    if grammar.kind is GrammarKind.LARK:
        return LLMatcher.grammar_from_lark(source)
    try:
        return LLMatcher.grammar_from_lark(lark_of(source))
    except Exception as error:  # the converter raises its own and plain ones, and RecursionError
        raise refused(grammar, str(error)) from None


def refused(grammar: Grammar, why: str) -> RequestError:
    """The error of a grammar that cannot be used; of `why` only the first line is said, llguidance's go on with its
    state."""
    line = " ".join(why.strip().splitlines()[:1])[:_MOST_SAID].rstrip(" .:")
    return RequestError(f"the grammar ({grammar.kind}) cannot be used: {line}")


def _from_schema(grammar: Grammar) -> str:
    try:
        schema: Any = json.loads(grammar.source)
    except (ValueError, RecursionError) as error:
        raise refused(grammar, f"it is no JSON: {error}") from None
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise refused(grammar, "a schema is a JSON object, or true")
    if _levels(schema) > MAX_DEPTH:
        raise refused(grammar, f"it is nested more than {MAX_DEPTH} deep")
    return LLMatcher.grammar_from_json_schema(schema, overrides={"lenient": False, "whitespace_pattern": WHITESPACE})


def _levels(value: Any) -> int:
    """How deeply objects and arrays are nested; no more than one level beyond the bound is looked at."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        inner = [v for v in level if isinstance(v, (dict, list))]
        level = [part for v in inner for part in (v.values() if isinstance(v, dict) else v)]
        depth += bool(inner)
    return depth


def _depth(source: str) -> int:
    """How deeply brackets are nested, literals and comments included: at least as deep as any parser will go."""
    depth = deepest = 0
    for character in source:
        if character in _OPENING:
            depth += 1
            deepest = max(deepest, depth)
        elif character in _CLOSING and depth:
            depth -= 1
    return deepest
