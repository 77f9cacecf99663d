"""Fields that several bodies share: how to sample, how to be served. From them come `SamplingParams` and `Service`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from plait.checks import MAX_BIAS
from plait.errors import RequestError
from plait.server.errors import FieldError
from plait.types import OPENAI_CHAIN, Grammar, SamplerStage, SamplingParams, Service, TokenId

OPENAI_DEFAULTS = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, samplers=OPENAI_CHAIN)
MAX_STOPS = 64
NO_NAMES: Mapping[str, str] = {}
RANDOM_SEED = -1
"""As llama.cpp has it: like a request without a seed."""
MAX_STOP_LENGTH = 1000
MAX_BREAKERS = 32
MAX_BIASES = 16384
MAX_SAMPLES = 128
MAX_DIGITS = 18
LEAST_BIAS = -1e30
"""How much of each a body may ask for; each costs time beside everybody else's."""
HEADERS = {
    "x-plait-priority": "priority",
    "x-plait-tenant": "tenant",
    "x-plait-timeout": "timeout",
    "x-plait-queue-timeout": "queue_timeout",
    "x-plait-cache": "cache",
    "x-plait-salt": "salt",
    "x-plait-pin": "pin",
}
_SECONDS = {"timeout", "queue_timeout", "pin"}


class Extension(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The object `plait` of a body: how the request is served; see `types.Service`. Times in seconds."""

    priority: str | None = None
    tenant: str | None = None
    timeout: float | None = None
    queue_timeout: float | None = None
    cache: str | None = None
    salt: str | None = None
    salt_from: int | None = None
    pin: float | None = None


class GrammarFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What an answer must look like, in one of four ways: `grammar` is GBNF, as llama.cpp has it."""

    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    lark: str | None = None


class SamplingFields(GrammarFields, kw_only=True, forbid_unknown_fields=True):
    """The fields of `SamplingParams` that every body may have, by the same names, and those of `GrammarFields`."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    samplers: list[str] | None = None
    ignore_eos: bool | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: Any = None
    n: int | None = None
    stream: bool | None = None
    plait: Extension | None = None


_OTHERS = {"seed", "stop", "logit_bias", "stream", "plait", *GrammarFields.__struct_fields__}
_PLAIN = tuple(name for name in SamplingFields.__struct_fields__ if name not in _OTHERS)
_LISTS = {"dry_sequence_breakers", "samplers"}


def sampling_params(
    body: SamplingFields,
    defaults: SamplingParams,
    vocab_size: int,
    grammar: Grammar | None = None,
    names: Mapping[str, str] = NO_NAMES,
    **fixed: Any,
) -> SamplingParams:
    """The parameters that a body asks for. `names` are the body's for parameters that it calls otherwise. Raises
    `FieldError`, naming the field."""
    given: dict[str, Any] = {}
    for name in _PLAIN:
        value = getattr(body, name)
        if value is not None:
            given[name] = tuple(value) if name in _LISTS else value
    if body.seed not in (None, RANDOM_SEED):
        given["seed"] = body.seed
    if body.stop:
        given["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
        if len(given["stop"]) > MAX_STOPS:
            raise FieldError(f"there are {len(given['stop'])} stop strings; give at most {MAX_STOPS}", "stop")
        if max(map(len, given["stop"])) > MAX_STOP_LENGTH:
            raise FieldError(f"a stop string has more than {MAX_STOP_LENGTH} characters", "stop")
    _bound(body.dry_sequence_breakers, "dry_sequence_breakers", MAX_BREAKERS)
    _bound(body.samplers, "samplers", len(SamplerStage))
    if body.n is not None and body.n > MAX_SAMPLES:
        raise FieldError(f"n is {body.n}; ask for at most {MAX_SAMPLES} samples", "n")
    if body.logit_bias:
        given["logit_bias"] = _biases(body.logit_bias, vocab_size)
    try:
        return replace(defaults, **given, grammar=grammar, **fixed)
    except RequestError as error:
        parameter, _, said = str(error).partition(" ")
        name = names.get(parameter, parameter)
        known = name in type(body).__struct_fields__
        raise FieldError(f"{name} {said}" if known else str(error), name if known else None) from None


def _biases(given: Any, vocab_size: int) -> tuple[tuple[int, float], ...]:
    """OpenAI's {"id": bias}, or llama.cpp's [[id, bias or false], ...]."""
    pairs = list(given.items()) if isinstance(given, dict) else given
    if not isinstance(pairs, list):
        raise FieldError("logit_bias is an object of token ids and numbers", "logit_bias")
    if len(pairs) > MAX_BIASES:
        raise FieldError(f"logit_bias has {len(pairs)} entries; give at most {MAX_BIASES}", "logit_bias")
    found: dict[TokenId, float] = {}
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise FieldError("logit_bias has an entry that is no pair of a token id and a number", "logit_bias")
        token, bias = pair
        bias = -1e9 if bias is False else bias
        if not isinstance(bias, (int, float)) or isinstance(bias, bool) or bias > MAX_BIAS:
            raise FieldError(f"logit_bias has a bias that is no number of at most {MAX_BIAS:g}", "logit_bias")
        number = _token_id(token)
        if not 0 <= number < vocab_size:
            raise FieldError(f"logit_bias names a token that there is not; ids are 0 to {vocab_size - 1}", "logit_bias")
        found[number] = found.get(number, 0.0) + float(max(bias, LEAST_BIAS))
    return tuple(found.items())


def _token_id(given: Any) -> int:
    """-1 for what is none. More digits than any vocabulary's are not even read."""
    if isinstance(given, str):
        return int(given) if len(given) <= MAX_DIGITS and given.isascii() and given.isdecimal() else -1
    return given if isinstance(given, int) and not isinstance(given, bool) else -1


def _bound(given: list[str] | None, name: str, most: int) -> None:
    if given is not None and len(given) > most:
        raise FieldError(f"{name} has {len(given)} entries; give at most {most}", name)


def service_of(
    extension: Extension | None, headers: Mapping[str, str], tenant: str, timeout: float, shared: bool
) -> Service:
    """How a request is served: the body's `plait` goes before the headers. `tenant` is whose key it came with, and
    `timeout` the server's own bound. Raises `FieldError`."""
    fields: dict[str, Any] = {}
    for header, name in HEADERS.items():
        if (text := headers.get(header)) is not None:
            fields[name] = _seconds(header, text) if name in _SECONDS else text
    for name in Extension.__struct_fields__:
        value = None if extension is None else getattr(extension, name)
        if value is not None:
            fields[name] = value
    named = fields.pop("tenant", "")
    fields["tenant"] = "/".join(part for part in (tenant, named) if part)
    if timeout:
        fields["timeout"] = min(timeout, fields.get("timeout", timeout))
    if tenant and not shared:
        # Another key's hit would tell by its speed what this one's prompts begin with.
        fields["salt"] = f"{tenant}/{fields.get('salt', '')}"
    try:
        return Service(**fields)
    except RequestError as error:
        raise FieldError(str(error), f"plait.{str(error).partition(' ')[0]}") from None


def _seconds(header: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise FieldError(f"the header {header} is '{text[:40]}'; give seconds", header) from None
