"""Fields of OpenAI and llama.cpp that ask for what Plait does not do: a value that asks for nothing is taken, so that
clients which always send it are served; any other is refused by name. Knows no routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from plait.server.errors import FieldError
from plait.server.fields import SamplingFields


class Foreign(NamedTuple):
    """A field that is not implemented: the values, beside null, that ask for nothing, and what to do instead."""

    neutral: tuple[Any, ...]
    why: str


OPENAI: Mapping[str, Foreign] = {
    "audio": Foreign((), "answers are text"),
    "function_call": Foreign(("none",), "send tool_choice"),
    "functions": Foreign(([],), "send tools"),
    "modalities": Foreign((["text"],), "answers are text"),
    "moderation": Foreign((), "nothing is moderated here"),
    "prediction": Foreign((), "leave it out"),
    "prompt_cache_options": Foreign((), "send plait.cache and plait.pin"),
    "prompt_cache_retention": Foreign(("in_memory",), "send plait.pin"),
    "reasoning_effort": Foreign((), "send what the model's template knows in chat_template_kwargs"),
    "service_tier": Foreign(("auto", "default"), "send plait.priority"),
    "store": Foreign((False,), "nothing is stored"),
    "verbosity": Foreign(("medium",), "say it in a message"),
    "web_search_options": Foreign((), "nothing is searched"),
}
"""Of a chat body; `OpenAIForeign` has the same names."""

LLAMA_CPP: Mapping[str, Foreign] = {
    "backend_sampling": Foreign((False,), "leave it out"),
    "dynatemp_exponent": Foreign((1,), "temperatures are fixed"),
    "dynatemp_range": Foreign((0,), "temperatures are fixed"),
    "lora": Foreign(([],), "there are no adapters"),
    "min_keep": Foreign((0,), "the samplers keep at least one token"),
    "n_cmpl": Foreign((1,), "send n"),
    "n_discard": Foreign((0,), "a context that is full ends the answer"),
    "n_indent": Foreign((0,), "send a grammar"),
    "n_keep": Foreign((0,), "a context that is full ends the answer"),
    "post_sampling_probs": Foreign((False,), "probabilities are those of the model itself"),
    "response_fields": Foreign(([],), "answers are whole"),
    "return_progress": Foreign((False,), "see /slots"),
    "t_max_predict_ms": Foreign((0, -1), "send plait.timeout"),
    "t_max_prompt_ms": Foreign((0, -1), "send plait.timeout"),
}
"""Of every body that generates; `LlamaCppForeign` has the same names."""


class LlamaCppForeign(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """See `LLAMA_CPP`."""

    backend_sampling: Any = None
    dynatemp_exponent: Any = None
    dynatemp_range: Any = None
    lora: Any = None
    min_keep: Any = None
    n_cmpl: Any = None
    n_discard: Any = None
    n_indent: Any = None
    n_keep: Any = None
    post_sampling_probs: Any = None
    response_fields: Any = None
    return_progress: Any = None
    t_max_predict_ms: Any = None
    t_max_prompt_ms: Any = None


class OpenAIForeign(LlamaCppForeign, kw_only=True, forbid_unknown_fields=True):
    """See `OPENAI`."""

    audio: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    moderation: Any = None
    prediction: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    service_tier: Any = None
    store: Any = None
    verbosity: Any = None
    web_search_options: Any = None


def refuse_foreign(body: object, fields: Mapping[str, Foreign]) -> None:
    """Raises `FieldError` for one of the `fields` with a value that asks for something."""
    for name, (neutral, why) in fields.items():
        value = getattr(body, name)
        if value is not None and value not in neutral:
            raise FieldError(f"'{name}' is not supported: {why}", name)


def refuse_unequal(body: object, one: str, other: str) -> None:
    """Raises `FieldError` where two fields that mean the same have different values."""
    first, second = getattr(body, one), getattr(body, other)
    if first is not None and second is not None and first != second:
        raise FieldError(f"'{one}' and '{other}' say different things; send one of them", one)
