"""Which grammars are taken, and how a refusal reads."""

from __future__ import annotations

import json

import pytest

from plait.errors import RequestError
from plait.tokenizer.grammar import MAX_CHARACTERS, MAX_DEPTH, check_grammar
from plait.types import Grammar, GrammarKind

NODE = {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}}


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("json_schema", "{}"),
        ("json_schema", "true"),
        ("json_schema", json.dumps({"$defs": {"node": NODE}, "$ref": "#/$defs/node"})),
        ("json_schema", '{"type": "object", "properties": {"a": {"type": "integer"}}, "title": "x", "example": 3}'),
        ("json_schema", '{"anyOf": [{"const": 1}, {"type": "string", "pattern": "^a+$"}]}'),
        ("regex", r"[a-z]+@[a-z]+\.(com|org)"),
        ("gbnf", 'root ::= "a" | "(" root ")" # a comment'),
        ("lark", 'start: "a" | "(" start ")"'),
    ],
)
def test_sound_ones_are_taken(kind: GrammarKind, source: str) -> None:
    check_grammar(Grammar(kind, source))


def nested(levels: int) -> str:
    schema: dict[str, object] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return json.dumps(schema)


@pytest.mark.parametrize(
    ("kind", "source", "why"),
    [
        ("json_schema", "{", "it is no JSON"),
        ("json_schema", "[" * 100_000, "it is no JSON"),
        ("json_schema", "3", "a schema is a JSON object"),
        ("json_schema", "false", "a schema is a JSON object"),
        ("json_schema", '{"not": {}}', "not"),
        ("json_schema", '{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("json_schema", '{"x-guidance": {"lenient": true}, "type": "array", "contains": {}}', "contains"),
        ("json_schema", '{"$ref": "https://example.com/schema"}', "not present"),
        ("json_schema", '{"type": "string", "minLength": 5, "maxLength": 2}', "Unsatisfiable|minLength"),
        ("json_schema", nested(MAX_DEPTH + 1), "nested"),
        ("regex", "a(", "unclosed|regex"),
        ("regex", "(?=a)a", "regex"),
        ("regex", "(" * 100 + ")" * 100, "nested"),
        ("gbnf", 'root ::= "a" other', "other"),
        ("gbnf", 'answer ::= "a"', "root"),
        ("gbnf", "root = 3", "::="),
        ("gbnf", "root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "nested"),
        ("lark", "start: missing", "missing"),
        ("lark", 'start: "' + "a" * MAX_CHARACTERS + '"', "no more than"),
    ],
)
def test_others_are_refused_in_one_sentence(kind: GrammarKind, source: str, why: str) -> None:
    with pytest.raises(RequestError, match=why) as caught:
        check_grammar(Grammar(kind, source))
    said = str(caught.value)
    assert said.startswith(f"the grammar ({kind}) cannot be used: ")
    assert "\n" not in said
    assert len(said) < 300


def test_the_deepest_schema_that_is_taken() -> None:
    check_grammar(Grammar(GrammarKind.JSON_SCHEMA, nested(MAX_DEPTH - 1)))
