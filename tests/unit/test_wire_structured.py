"""What a request may ask for and what an event may tell crosses the socket as it is."""

from __future__ import annotations

import pytest

from plait.errors import RequestError
from plait.types import EngineRequest, FinishReason, Grammar, GrammarKind, Logprob, Pooling, SamplingParams, TokenEvent
from plait.wire.messages import Events, Submit, decode_from_engine, decode_to_engine, encode, encode_events, token_event

HELD = SamplingParams(
    grammar=Grammar(GrammarKind.JSON_SCHEMA, '{"type": "integer"}'), mirostat=2, top_n_sigma=1.5, xtc_probability=0.5
)


@pytest.mark.parametrize(
    "request_",
    [
        EngineRequest(request_id="a", prompt=(1, 2), sampling=HELD),
        EngineRequest(request_id="b", prompt=(1,), sampling=SamplingParams(), pooling=Pooling.LAST),
        EngineRequest(request_id="c", prompt=(1,), sampling=SamplingParams(), prompt_logprobs=5),
    ],
)
def test_requests(request_: EngineRequest) -> None:
    assert decode_to_engine(encode(Submit(7, request_))) == Submit(7, request_)


@pytest.mark.parametrize(
    "event",
    [
        TokenEvent("a", 0, (1,), prompt_logprobs=((), (Logprob(3, -0.5), Logprob(4, -1.5)))),
        TokenEvent("a", 0, finish_reason=FinishReason.STOP, prompt_tokens=4, embedding=(0.6, -0.8)),
        TokenEvent("a", 1, (1, 2)),
    ],
)
def test_events(event: TokenEvent) -> None:
    message = decode_from_engine(encode_events([event]))
    assert isinstance(message, Events)
    assert [token_event(one) for one in message.events] == [event]


def test_a_grammar_of_no_known_kind_is_refused_on_arrival() -> None:
    data = encode(Submit(7, EngineRequest(request_id="a", prompt=(1,), sampling=HELD)))
    with pytest.raises((RequestError, ValueError)):
        decode_to_engine(data.replace(b"json_schema", b"yaml_schema"))
