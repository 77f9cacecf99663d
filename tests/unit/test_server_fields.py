"""What is said of the server's fields is said of all of them, and of no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plait.server.app import ROUTES
from plait.server.errors import FieldError
from plait.server.fields import HEADERS, Extension, GrammarFields, SamplingFields
from plait.server.foreign import LLAMA_CPP, OPENAI, LlamaCppForeign, OpenAIForeign, refuse_foreign
from plait.server.openai.bodies import ChatBody

REFERENCE = (Path(__file__).parents[2] / "docs" / "reference" / "server.md").read_text()


def test_every_route_and_field_is_in_the_reference() -> None:
    shown = set(re.findall(r"`([^`]+)`", REFERENCE))
    names = {*SamplingFields.__struct_fields__, *GrammarFields.__struct_fields__, *Extension.__struct_fields__}
    assert not {*names, *OPENAI, *LLAMA_CPP} - shown
    assert not {header.title() for header in HEADERS} - shown
    routes = {re.sub(r"\{(\w+):?\w*\}", lambda match: "NAME" if match[1] == "model" else "ID", e.path) for e in ROUTES}
    assert not {"/slots/ID?action=save" if route == "/slots/ID" else route for route in routes} - shown


def test_the_tables_are_those_of_the_bodies() -> None:
    assert set(LLAMA_CPP) == set(LlamaCppForeign.__struct_fields__) - set(SamplingFields.__struct_fields__)
    assert set(OPENAI) == set(OpenAIForeign.__struct_fields__) - set(LlamaCppForeign.__struct_fields__)


@pytest.mark.parametrize("name", [*OPENAI, *LLAMA_CPP])
def test_what_asks_for_something_is_refused_by_name(name: str) -> None:
    fields = {**OPENAI, **LLAMA_CPP}
    for neutral in (None, *fields[name].neutral):
        refuse_foreign(ChatBody(messages=[], **{name: neutral}), fields)
    for other in ("something", ["something"], {"a": 1}, True, 7):
        if other in fields[name].neutral:  # True is 1
            continue
        with pytest.raises(FieldError) as caught:
            refuse_foreign(ChatBody(messages=[], **{name: other}), fields)
        assert caught.value.param == name
