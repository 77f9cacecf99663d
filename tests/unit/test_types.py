"""Sampling parameters that exist are valid."""

import math

import pytest

from plait.errors import RequestError
from plait.types import (
    LLAMA_CPP_CHAIN,
    OPENAI_CHAIN,
    CacheMode,
    EngineRequest,
    FinishReason,
    Grammar,
    GrammarKind,
    Pooling,
    Priority,
    SamplerStage,
    SamplingParams,
    Service,
    TokenEvent,
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 2.0),
        ("top_p", -0.1),
        ("min_p", 1.5),
        ("typical_p", -1.0),
        ("top_k", -1),
        ("n", 0),
        ("max_tokens", -5),
        ("repeat_penalty", 0.0),
        ("repeat_penalty", 3e-228),
        ("repeat_penalty", math.inf),
        ("repeat_last_n", -2),
        ("repeat_penalty", 1e39),
        ("logit_bias", ((1, math.inf),)),
        ("logit_bias", ((1, math.nan),)),
        ("logit_bias", ((1, 1e39),)),
        ("presence_penalty", 1000.0),
        ("frequency_penalty", math.nan),
        ("dry_base", 0.5),
        ("seed", -1),
        ("seed", 2**64),
        ("logprobs", 101),
        ("stop", ("",)),
        ("samplers", (SamplerStage.TOP_K, SamplerStage.TOP_K)),
        ("samplers", ("xx",)),
        ("xtc_probability", 1.5),
        ("xtc_threshold", -0.1),
        ("top_n_sigma", math.inf),
        ("mirostat", 3),
        ("mirostat", 1.5),
        ("mirostat_tau", -1.0),
        ("mirostat_eta", 2.0),
        ("grammar", "{}"),
        ("temperature", "hot"),
        ("top_k", 1.5),
        ("max_tokens", 2.5),
        ("n", 1.5),
        ("seed", 1.5),
        ("logprobs", 1.5),
        ("stop", "abc"),
        ("stop", (1,)),
        ("stop", None),
        ("stop_token_ids", 5),
        ("stop_token_ids", ("a",)),
        ("dry_sequence_breakers", "\n"),
        ("logit_bias", {5: 1.0}),
        ("logit_bias", (1,)),
        ("logit_bias", ((2**64, 1.0),)),
        ("stop_token_ids", (2**64,)),
        ("max_tokens", 2**31),
        ("max_tokens", 10**40),
        ("top_k", 2**64),
        ("repeat_last_n", 2**64),
        ("dry_penalty_last_n", 2**64),
        ("dry_allowed_length", 2**64),
        ("dry_multiplier", 10**30),
        ("dry_base", 10**30),
        ("top_n_sigma", -(10**30)),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    assert name.split("_")[0] in str(caught.value)


def test_edges_of_the_ranges_are_accepted() -> None:
    SamplingParams(
        temperature=0, top_p=1, min_p=0, typical_p=1, top_k=0, max_tokens=0, seed=2**64 - 1, repeat_last_n=-1
    )


def test_the_chains_hold_the_same_stages_in_their_own_order() -> None:
    assert set(LLAMA_CPP_CHAIN) == set(OPENAI_CHAIN) == set(SamplerStage)
    assert LLAMA_CPP_CHAIN[-1] is SamplerStage.TEMPERATURE
    assert OPENAI_CHAIN.index(SamplerStage.TEMPERATURE) < OPENAI_CHAIN.index(SamplerStage.TOP_K)


def test_an_event_is_final_by_reason_or_by_error() -> None:
    assert not TokenEvent(request_id="a", index=0, tokens=(1,)).final
    assert TokenEvent(request_id="a", index=0, finish_reason=FinishReason.STOP).final
    assert TokenEvent(request_id="a", index=0, error=RequestError("x")).final


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("priority", "urgent"),
        ("priority", 7),
        ("priority", True),
        ("priority", ["high"]),
        ("cache", "write"),
        ("cache", None),
        ("tenant", 5),
        ("salt", b"x"),
        ("timeout", 0),
        ("timeout", -1.0),
        ("timeout", math.nan),
        ("timeout", math.inf),
        ("queue_timeout", "1s"),
        ("queue_timeout", True),
        ("salt_from", -1),
        ("salt_from", 1.5),
        ("salt_from", 4),
        ("pin", -1),
        ("pin", math.inf),
        ("pin", True),
    ],
)
def test_a_service_that_cannot_be_had_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=name):
        Service(**{name: value})  # type: ignore[arg-type]


def test_a_service_names_its_class_and_mode_and_sets_the_request() -> None:
    asked = EngineRequest(request_id="a", prompt=(1,), sampling=SamplingParams(seed=1))
    assert Service().applied(asked, 50.0) == asked
    service = Service(priority="low", cache="read", tenant="t", timeout=2, queue_timeout=0.5, salt="s", salt_from=16)
    request = service.applied(asked, 50.0)
    assert (request.priority, request.cache, request.tenant) == (Priority.LOW, CacheMode.READ, "t")
    assert (request.deadline, request.queue_timeout) == (52.0, 0.5)
    assert (request.salt, request.salt_from) == ("s", 16)
    assert Service(priority=Priority.HIGH, cache=CacheMode.OFF) == Service(priority="high", cache="off")


def test_a_grammar_has_a_kind_and_a_source() -> None:
    assert Grammar("regex", "a+").kind is GrammarKind.REGEX  # type: ignore[arg-type]
    for kind, source in (
        ("xml", "a"),
        (None, "a"),
        ("regex", ""),
        ("lark", " \n"),
        ("json_schema", {"type": "object"}),
    ):
        with pytest.raises(RequestError, match="grammar"):
            Grammar(kind, source)  # type: ignore[arg-type]


@pytest.mark.parametrize("wanted", [-1, 101, True, 1.5, "2"])
def test_prompt_logprobs_out_of_range_are_refused(wanted: object) -> None:
    with pytest.raises(RequestError, match="prompt_logprobs"):
        EngineRequest(request_id="r", prompt=(1,), sampling=SamplingParams(), prompt_logprobs=wanted)  # type: ignore[arg-type]


def test_a_request_that_pools_asks_for_nothing_else() -> None:
    with pytest.raises(RequestError, match="pools"):
        EngineRequest(request_id="r", prompt=(1,), sampling=SamplingParams(), pooling=Pooling.MEAN, prompt_logprobs=0)
    with pytest.raises(RequestError, match="pools"):
        EngineRequest(request_id="r", prompt=(1,), sampling=SamplingParams(n=2), pooling=Pooling.LAST)
