"""Templates are rendered as transformers renders them, in the manner of every family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.chat_templates import CONVERSATIONS, TOOLS, call, turn
from tests.support.chat_templates import TEMPLATES as NEWER
from tests.support.chat_templates_older import OLDER

from plait.errors import TemplateError
from plait.tokenizer.template import ChatTemplate
from plait.types import ChatMessage

pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
TEMPLATES = NEWER | OLDER
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
COMPILED = {name: ChatTemplate(source, name) for name, source in TEMPLATES.items()}
EXTRAS: list[dict[str, Any]] = [
    {},
    {"add_generation_prompt": False},
    {"tools": TOOLS, "date_string": "1 Jan 2026"},
    {"documents": [{"title": "Köln", "text": "a\nb"}], "enable_thinking": False, "thinking": True},
]


def theirs(source: str, chat: Sequence[dict[str, Any]], **extra: Any) -> str | None:
    """None where the template fails."""
    from jinja2 import TemplateError as JinjaError
    from transformers.utils.chat_template_utils import render_jinja_template

    given: dict[str, Any] = {"add_generation_prompt": True, "tools": None, "documents": None, **extra}
    try:
        return str(render_jinja_template([list(chat)], chat_template=source, **{**SPECIAL, **given})[0][0])
    except (JinjaError, TypeError, ValueError):
        return None


def ours(name: str, chat: Sequence[dict[str, Any]], **extra: Any) -> str | None:
    turns = []
    for message in chat:
        extra_fields = {key: value for key, value in message.items() if key != "role"}
        turns.append(ChatMessage(role=message["role"], content="", extra=extra_fields))
    try:
        return COMPILED[name].render(turns, **{**SPECIAL, **extra})
    except TemplateError:
        return None


@pytest.mark.parametrize("name", TEMPLATES)
def test_rendering_equals_transformers(name: str) -> None:
    rendered = 0
    for kind, chat in CONVERSATIONS.items():
        for extra in EXTRAS:
            expected = theirs(TEMPLATES[name], chat, **extra)
            assert ours(name, chat, **extra) == expected, (kind, extra)
            rendered += expected is not None
    assert rendered >= 12  # not all refused


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_last_message_can_be_continued(name: str) -> None:
    rendered = 0
    for kind in ("several", "system, several", "reasoning", "one", "parts"):
        chat = [*CONVERSATIONS[kind][:2], turn("assistant", "And so ")][-3:]
        for extra in ({}, {"tools": TOOLS}):
            given = {"add_generation_prompt": False, "continue_final_message": True, **extra}
            expected = theirs(TEMPLATES[name], chat, **given)
            assert ours(name, chat, **given) == expected, (kind, extra)
            rendered += expected is not None
    assert rendered or name in ("gemma", "granite")


texts = st.text(max_size=12) | st.sampled_from(["", " a\n", "<think>x</think>y", "{{ 1 }}", "<tool_response>", '"\\'])
arguments = st.dictionaries(texts, st.integers() | texts | st.none() | st.lists(st.booleans(), max_size=2), max_size=3)
calls = st.lists(st.builds(call, arguments | st.just('{"a": 1}')), min_size=1, max_size=2)
assistants = st.one_of(
    st.builds(turn, st.just("assistant"), texts),
    st.builds(lambda c, t: turn("assistant", c, tool_calls=t), texts, calls),
    st.builds(lambda c, r: turn("assistant", c, reasoning_content=r), texts, texts),
)
others = st.builds(turn, st.sampled_from(["user", "tool", "system"]), texts)
alternating = st.lists(st.tuples(st.builds(turn, st.just("user"), texts), assistants), min_size=1, max_size=3).map(
    lambda pairs: [message for pair in pairs for message in pair]
)
chats = alternating | st.lists(assistants | others, min_size=1, max_size=5)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(list(TEMPLATES)), chats, st.sampled_from(EXTRAS))
def test_random_conversations(name: str, chat: list[dict[str, Any]], extra: dict[str, Any]) -> None:
    assert ours(name, chat, **extra) == theirs(TEMPLATES[name], chat, **extra)
