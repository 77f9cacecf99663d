"""Sampling parameters that exist are valid."""

import math

import pytest

from plait.errors import RequestError
from plait.types import LLAMA_CPP_CHAIN, OPENAI_CHAIN, FinishReason, SamplerStage, SamplingParams, TokenEvent


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
        ("repeat_penalty", math.inf),
        ("repeat_last_n", -2),
        ("presence_penalty", 1000.0),
        ("frequency_penalty", math.nan),
        ("dry_base", 0.5),
        ("seed", -1),
        ("seed", 2**64),
        ("logprobs", 101),
        ("stop", ("",)),
        ("samplers", (SamplerStage.TOP_K, SamplerStage.TOP_K)),
        ("samplers", ("xx",)),
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
