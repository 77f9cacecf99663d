"""Chat templates: what published ones need, and that a hostile one ends in an error, soon and with little memory."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path

import pytest

from plait.errors import OptionError, TemplateError
from plait.tokenizer import Tokenizer
from plait.tokenizer.plain_templates import PLAIN, given_template
from plait.tokenizer.template import ChatTemplate
from plait.types import ChatMessage

GOLDENS = Path(__file__).parent.parent / "golden" / "tokenizers"
CHAT = (ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Größe <b>?"))
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def render(source: str, **extra: object) -> str:
    return ChatTemplate(source, "model.gguf", now=lambda: datetime(2026, 11, 23)).render(CHAT, **extra)


def test_messages_become_a_prompt() -> None:
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nGröße <b>?<|im_end|>\n"
    assert render(CHATML, add_generation_prompt=False) == text
    assert render(CHATML) == text + "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "<s>Be brief."),
        ("{{ messages[1]['content'] | tojson }}", '"Größe <b>?"'),
        ("{{ {'b': 1, 'a': [2]} | tojson(indent=2, sort_keys=True) }}", '{\n  "a": [\n    2\n  ],\n  "b": 1\n}'),
        ("{{ tools | tojson }}", "null"),
        ("{{ strftime_now('%d %b %Y') }}", "23 Nov 2026"),
        ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "system"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ loop.revindex0 }};{% endfor %}", "1/2 1;2/2 0;"),
        ("{% for c in messages[0].content | list %}{{ loop.length }}{% break %}{% endfor %}", "9"),
        ("{% for x in [1, 2] if x > 1 recursive %}{{ x }}{% else %}none{% endfor %}", "2"),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}", "system"),
        ("  {% if true %}\n x\n  {% endif %}\n", " x\n"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{% macro f(x, y='!') %}{{ x ~ y }}{% endmacro %}{{ f('a') ~ f(1, 2) }}", "a!12"),
        (
            "{{ 'a-b'.split('-')[1].upper() + 'x' * 3 }}{{ '%s' % 5 }}{{ '%s and %05.1f' | format('a', 2) }}",
            "Bxxx5a and 002.0",
        ),
        (
            "{{ nothing }}{{ nothing is defined }}{{ none }}{{ true }}{{ 1.5 }}{{ [1] }}{{ [] }}",
            "FalseNoneTrue1.5[1][]",
        ),
        ("{{ messages | map(attribute='role') | join(', ') }}", "system, user"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first }}", "Größe <b>?"),
        (
            "{{ ['a', 'b'] | join }}{{ 'x y' | replace(' ', '_') | indent(2, true) }}{{ 'ab'.replace('a', '') }}",
            "ab  x_yb",
        ),
        ("{{ messages[1:] | length }}{{ range(3) | list }}{{ range(2, 0, -1) | list }}", "1[0, 1, 2][2, 1]"),
        ("{{ date_string }}", "given"),
    ],
)
def test_what_published_templates_use(source: str, expected: str) -> None:
    assert render(source, bos_token="<s>", date_string="given") == expected


GROW = "{% set ns = namespace(s='x', n=9, l=[1]) %}{% for i in range(90) %}"
HOSTILE = {
    "attribute": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "attr filter": "{{ messages | attr('__class__') }}",
    "format attribute": "{{ '{0.__class__}'.format(messages) }}",
    "environment": "{{ self._TemplateReference__context.environment }}{{ self.__init__.__globals__ }}",
    "mutation": "{{ messages.append(1) }}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "huge range": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "silent loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i %}{% endfor %}{% endfor %}",
    "deep recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "wide recursion": "{% macro f(n) %}{% if n %}{% set a = f(n-1) %}{% set b = f(n-1) %}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "recursive loop": "{% for x in [[1]] recursive %}{{ loop([x]) }}{{ loop([x]) }}{% endfor %}",
    "long string": "{{ 'x' * 10**10 }}",
    "long list": "{{ [1] * 10**10 }}",
    "constant list": "{% set x = [0] * (2 ** 40) %}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "product": GROW + "{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "doubling +": GROW + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "doubling ~": GROW + "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "doubling list": GROW + "{% set ns.l = ns.l + ns.l %}{% endfor %}",
    "doubling join": GROW + "{% set ns.s = [ns.s, ns.s] | join %}{% endfor %}",
    "doubling block": GROW + "{% set b %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = b %}{% endfor %}",
    "doubling format": GROW + "{% set ns.s = '%s%s' | format(ns.s, ns.s) %}{% endfor %}",
    "doubling str.format": GROW + "{% set ns.s = '{0}{0}'.format(ns.s) %}{% endfor %}",
    "wide format": "{{ '%1000000000d' | format(1) }}",
    "wide percent": "{{ '%1000000000d' % 1 }}",
    "wide str.format": "{{ '{:1000000000}'.format(1) }}",
    "computed width": "{{ '%*d' % (1000000000, 1) }}",
    "computed str.format": "{{ '{:{}}'.format(1, 1000000000) }}",
    "center": "{{ 'x' | center(10**10) }}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "indent": "{{ ('\n' * 10000) | indent('x' * 10000) }}",
    "replace": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "replace filter": "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "join": "{{ ('x' * 100000).join(['y'] * 100000) }}",
    "join of generator": "{{ ['x' * 100000] * 100000 | map('upper') | join }}",
    "batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "lipsum": "{{ lipsum(100000) }}",
    "much output": "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
    "much constant text in a block": "{% set x %}{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}{% endset %}",
    "much constant text in a macro": "{% macro f() %}" + "x" * 9999 + "{% endmacro %}"
    "{% set x %}{% for i in range(99999) %}{{ f() }}{% endfor %}{% endset %}",
    "much constant output": "{% for i in range(99999) %}" + "x" * 999 + "{% endfor %}",
    "deep nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep json": "{% set ns = namespace(v=[]) %}{% for i in range(9999) %}{% set ns.v = [ns.v] %}{% endfor %}"
    "{{ ns.v | tojson }}",
    "wide json": "{{ {'a': [1, 2, 3]} | tojson(indent=10**9) }}",
    "syntax": "{% for %}",
    "unknown tag": "{% nonsense %}",
    "unknown filter": "{{ 1 | nonsense }}",
    "type error": "{{ messages + 1 }}",
    "undefined": "{{ nothing.more }}",
    "refusal": "{{ raise_exception('only user and assistant') }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_or_broken_template_is_an_error(source: str) -> None:
    start = time.monotonic()
    with pytest.raises(TemplateError, match=r"model\.gguf: the chat template"):
        render(source)
    assert time.monotonic() - start < 15  # bounded; generous, for a busy machine


def test_the_reason_is_told() -> None:
    with pytest.raises(TemplateError, match="only user and assistant"):
        render(HOSTILE["refusal"])
    with pytest.raises(TemplateError, match="line 2"):
        render("\n{% for %}")


@pytest.fixture
def metadata() -> dict[str, object]:
    tokens = [*(chr(n) for n in range(33, 127)), "<s>", "<|im_start|>", "<|im_end|>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 94 + [3] * 3,
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 94,
        "tokenizer.ggml.eos_token_id": 96,
    }


def test_without_a_template_there_is_an_error(metadata: dict[str, object]) -> None:
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"][:95], "<|a|>", "<|b|>"]  # type: ignore[index]
    tokenizer = Tokenizer.from_metadata("model.gguf", metadata)
    assert tokenizer.chat_template is None
    with pytest.raises(
        TemplateError, match=r"model\.gguf: the model has no chat template called 'default'; it has none"
    ):
        tokenizer.render_chat(CHAT)


def test_without_a_template_the_special_tokens_tell_the_family(metadata: dict[str, object]) -> None:
    tokenizer = Tokenizer.from_metadata("model.gguf", metadata)
    assert tokenizer.chat_template is None  # of its own
    assert tokenizer.render_chat(CHAT) == render(CHATML)
    assert tokenizer.with_template("{{ messages | length }}").render_chat(CHAT) == "2"


PLAIN_PROMPTS = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n",
    "phi3": "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n",
    "mistral": "<s>[INST] Be brief.\n\nHi [/INST]",
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_templates(name: str) -> None:
    chat = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hi")]
    found = ChatTemplate(given_template(name), "m").render(chat, bos_token="<s>", eos_token="</s>")
    assert found == PLAIN_PROMPTS[name]


def test_a_given_template_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("hi")
    assert given_template(str(tmp_path / "t.jinja")) == "hi"
    with pytest.raises(OptionError, match="none of chatml, llama3"):
        given_template("nothing.jinja")


def test_named_templates_of_a_gguf_file(metadata: dict[str, object]) -> None:
    metadata |= {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "with {{ tools | length }}"}
    metadata |= {"tokenizer.chat_templates": ["tool_use"]}
    tokenizer = Tokenizer.from_metadata("model.gguf", metadata)
    assert tokenizer.chat_template == "plain"
    assert tokenizer.render_chat(CHAT) == "plain"
    assert tokenizer.render_chat(CHAT, tools=[{}]) == "with 1"
    assert tokenizer.render_chat(CHAT, template="tool_use", tools=[]) == "with 0"
    with pytest.raises(TemplateError, match="called 'rag'; it has default, tool_use"):
        tokenizer.render_chat(CHAT, template="rag")


def test_chat_ids_have_one_begin_token(metadata: dict[str, object]) -> None:
    metadata["tokenizer.ggml.add_bos_token"] = True
    for source in ("{{ bos_token }}hi", "hi"):
        tokenizer = Tokenizer.from_metadata("model.gguf", {**metadata, "tokenizer.chat_template": source})
        assert [tokenizer.token_text(token) for token in tokenizer.encode_chat(CHAT)] == ["<s>", "h", "i"]


def test_special_tokens_of_the_template_are_ids() -> None:
    from plait.formats.open import open_model

    metadata = {**open_model(GOLDENS / "byte_level.gguf").metadata, "tokenizer.chat_template": CHATML}
    tokenizer = Tokenizer.from_metadata("model.gguf", metadata)
    ids = tokenizer.encode_chat(CHAT)
    assert tokenizer.token_text(ids[0]) == "<|im_start|>"
    assert tokenizer.decode(ids) == tokenizer.render_chat(CHAT)


@pytest.mark.parametrize("kind", ["string", "list", "file"])
def test_templates_of_a_directory(kind: str, tmp_path: Path) -> None:
    from plait.tokenizer.template_files import from_directory

    named = [{"name": "default", "template": "one"}, {"name": "rag", "template": "two"}]
    given = {"string": "one", "list": named, "file": "old"}[kind]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": given}))
    if kind == "file":
        (tmp_path / "chat_template.jinja").write_text("one")
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("two")
    templates = from_directory(tmp_path)
    assert templates["default"] == "one"
    assert templates.get("rag") == (None if kind == "string" else "two")


def test_other_special_tokens_have_their_names(metadata: dict[str, object], tmp_path: Path) -> None:
    metadata |= {"tokenizer.ggml.padding_token_id": 95, "tokenizer.ggml.unknown_token_id": 999}
    template = "{{ pad_token }} {{ unk_token is defined }}"
    tokenizer = Tokenizer.from_metadata("model.gguf", {**metadata, "tokenizer.chat_template": template})
    assert tokenizer.render_chat(CHAT) == "<|im_start|> False"


def test_special_tokens_that_a_parser_needs_are_shown(metadata: dict[str, object]) -> None:
    from plait.tokenizer.output import OutputText

    tokenizer = Tokenizer.from_metadata("model.gguf", metadata)
    ids = tokenizer.encode("<|im_start|>a<s>b", add_special=False)
    assert len(ids) == 4
    assert OutputText(tokenizer).push(ids, True)[0] == "ab"
    assert OutputText(tokenizer, keep=frozenset({"<|im_start|>"})).push(ids, True)[0] == "<|im_start|>ab"
