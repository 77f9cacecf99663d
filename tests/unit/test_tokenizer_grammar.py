"""Which grammars are taken, and how a refusal reads."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from plait.errors import RequestError
from plait.tokenizer.gbnf import lark_of
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


def a_chain(kind: GrammarKind, rules: int, *, ring: bool = False) -> str:
    """Each rule refers to the next one, and the last one to the first, if it is a ring."""
    if kind is GrammarKind.JSON_SCHEMA:
        last = {"$ref": "#/$defs/d0"} if ring else {"type": "integer"}
        chain = {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(rules)}
        return json.dumps({"$ref": "#/$defs/d0", "$defs": {**chain, f"d{rules}": last}})
    first, mark = ("root", "::=") if kind is GrammarKind.GBNF else ("start", ":")
    lines = [f'r{i} {mark} "a" r{i + 1}' for i in range(rules)]
    last = f'r{rules} {mark} "b" r0?' if ring else f'r{rules} {mark} "b"'
    return "\n".join((f"{first} {mark} r0", *lines, last))


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize(
    ("kind", "rules"), [(GrammarKind.GBNF, 6000), (GrammarKind.LARK, 6000), (GrammarKind.JSON_SCHEMA, 2000)]
)
def test_long_chains_of_rules_neither_overflow_the_stack_nor_take_long(
    kind: GrammarKind, rules: int, ring: bool
) -> None:
    source = a_chain(kind, rules, ring=ring)
    assert len(source) > 0.8 * MAX_CHARACTERS
    check = (
        "import sys; from plait.tokenizer.grammar import check_grammar; from plait.types import Grammar;"
        f"check_grammar(Grammar('{kind}', sys.stdin.read()))"
    )
    done = subprocess.run([sys.executable, "-c", check], input=source.encode(), timeout=20, check=False)
    assert done.returncode == 0


def test_what_doubles_with_each_rule_is_refused_soon() -> None:
    doubling = "\n".join(("start: R0", *(f"R{i}: R{i + 1} R{i + 1}" for i in range(100)), 'R100: "b"'))
    with pytest.raises(RequestError, match=r"too big \(limit for this grammar: 250000"):  # with four times that: 4 s
        check_grammar(Grammar(GrammarKind.LARK, doubling))


def test_the_order_of_rules_changes_nothing() -> None:
    rules = ['root ::= item ("," item)*', "item ::= word | number", "word ::= letter+", "letter ::= [a-z]",
             "number ::= digit+", 'digit ::= [0-9]', 'unused ::= "(" unused? ")"']  # fmt: skip
    forward, backward = (sorted(lark_of("\n".join(one)).splitlines()) for one in (rules, rules[::-1]))
    assert forward == backward == sorted((*lark_of("\n".join(rules)).splitlines(),))
    assert "LETTER: /[a-z]/" in forward
    assert 'start: ITEM ("," ITEM)*' in forward
