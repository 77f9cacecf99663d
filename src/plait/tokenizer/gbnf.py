"""llama.cpp's grammars in Lark's language. Knows llguidance's converter; knows no JSON and no matching.

The converter looks at all rules again for as long as one of them turns out to be made of text alone, and it takes the
rules in their order: a chain of them written from the top down costs the square of its length, 7 s for 2000. It is
handed the rules from the bottom up, which costs two rounds whatever they are.
"""

from __future__ import annotations

from collections.abc import Iterator

from llguidance.gbnf_to_lark import ASTNode, GrammarParser, RuleNode, RuleRefNode, resolve


def lark_of(source: str) -> str:
    """The same grammar for Lark, its rules in their order. Raises the converter's errors, and plain ones."""
    rules = GrammarParser().parse(source)
    written = list(rules.values())
    resolve({rule.name: rule for rule in _bottom_up(rules)})
    return "\n\n".join(("%llguidance {}", *map(str, written))) + "\n"


def _bottom_up(rules: dict[str, RuleNode]) -> list[RuleNode]:
    """Each rule after those that it refers to, but where they refer to it as well."""
    found: list[RuleNode] = []
    seen: set[str] = set()
    for name in rules:
        stack = [(name, iter((name,)))]
        while stack:
            of, others = stack[-1]
            other = next(others, None)
            if other is None:
                stack.pop()
                if stack:
                    found.append(rules[of])
            elif other in rules and other not in seen:
                seen.add(other)
                stack.append((other, _names(rules[other])))
    return found


def _names(node: ASTNode) -> Iterator[str]:
    """What a rule refers to."""
    for inner in node.children():
        if isinstance(inner, RuleRefNode):
            yield inner.name
        yield from _names(inner)
