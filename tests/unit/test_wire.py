"""What is said between the processes arrives as it was, however the stream is cut, and costs little."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import errors
from plait.errors import ModelFileError, PlaitError, QueueFullError
from plait.types import (
    CacheMode,
    EngineRequest,
    FinishReason,
    Logprob,
    Priority,
    SamplerStage,
    SamplingParams,
    TokenEvent,
)
from plait.wire.faults import error_of, fault_of
from plait.wire.frames import MOST_BYTES, Frames, framed
from plait.wire.marks import CAPACITY, Marks
from plait.wire.messages import (
    Event,
    Events,
    LoadFailed,
    Submit,
    decode_from_engine,
    decode_to_engine,
    encode,
    encode_events,
    token_event,
)

TOKENS = st.lists(st.integers(0, 2**31), max_size=4).map(tuple)
LOGPROBS = st.lists(
    st.lists(st.builds(Logprob, st.integers(0, 9), st.floats(-90, 0)), max_size=2).map(tuple), max_size=2
)
EVENTS = st.builds(
    TokenEvent,
    st.text(max_size=9),
    st.integers(0, 1023),
    TOKENS,
    LOGPROBS.map(tuple),
    st.sampled_from((None, *FinishReason)),
    st.none(),
    st.integers(0, 9),
    st.integers(0, 9),
    LOGPROBS.map(tuple),
    st.lists(st.floats(-1, 1), max_size=3).map(tuple),
    st.floats(0, 9),
    st.floats(0, 9),
    st.none() | st.floats(-9, 9),
)


def _read(events: list[TokenEvent]) -> list[TokenEvent]:
    message = decode_from_engine(encode_events(events))
    assert isinstance(message, Events)
    return [token_event(event) for event in message.events]


@given(st.lists(EVENTS, max_size=5))
def test_events_arrive_as_they_were(events: list[TokenEvent]) -> None:
    assert _read(events) == events


def test_an_event_on_the_wire_has_the_fields_of_a_token_event() -> None:
    assert Event.__struct_fields__ == TokenEvent._fields
    assert list(Event.__struct_defaults__) == list(TokenEvent._field_defaults.values())


def test_an_error_arrives_as_its_class_with_what_it_carries() -> None:
    (event,) = _read([TokenEvent("a", 1, (), error=QueueFullError("the queue is full", 2.5), prompt_tokens=3)])
    assert isinstance(event.error, QueueFullError)
    assert (str(event.error), event.error.retry_after, event.prompt_tokens) == ("the queue is full", 2.5, 3)
    message = decode_from_engine(encode(LoadFailed(fault_of(ModelFileError("m.gguf", "is cut short", "w1")))))
    assert isinstance(message, LoadFailed)
    error = error_of(message.fault)
    assert isinstance(error, ModelFileError)
    assert (str(error), error.tensor) == ("m.gguf: tensor 'w1': is cut short", "w1")


def test_every_class_of_the_tree_survives_and_others_become_its_root() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PlaitError)]
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        bare = kind.__new__(kind, "text")
        assert type(error_of(fault_of(bare))) is kind
    other = error_of(fault_of(MemoryError("too much")))
    assert (type(other), str(other)) == (PlaitError, "MemoryError: too much")


def test_a_request_arrives_as_it_was() -> None:
    whole = EngineRequest(
        request_id="x",
        prompt=tuple(range(300)),
        sampling=SamplingParams(
            seed=2**64 - 1, logit_bias=((1, -1.5),), stop=("a",), temperature=1, n=2, samplers=(SamplerStage.TOP_K,)
        ),
        stop_token_ids=frozenset({1, 2}),
        dry_breaker_ids=((1, 2), (3,)),
        priority=Priority.LOW,
        cache=CacheMode.READ,
        deadline=5.5,
        queue_timeout=2.0,
        tenant="b",
        salt="c",
        salt_from=16,
        pin=3.0,
        resume=((1,), ()),
        mus=(0.5, None),
        ended=frozenset({1}),
    )
    message = decode_to_engine(encode(Submit(7, whole)))
    assert message == Submit(7, whole)
    import numpy as np

    strange = replace(whole.sampling, top_k=np.int64(3), temperature=np.float32(0.5))
    assert decode_to_engine(encode(Submit(7, replace(whole, sampling=strange)))) == Submit(
        7, replace(whole, sampling=replace(whole.sampling, top_k=3, temperature=0.5))
    )


def test_the_events_of_a_large_step_cost_little() -> None:
    events = [TokenEvent(f"chatcmpl-{i:032d}", 0, (37 * i,)) for i in range(256)]

    def seconds() -> float:
        began = time.perf_counter()
        encode_events(events)
        return time.perf_counter() - began

    assert min(seconds() for _ in range(50)) < 0.0003
    assert len(encode_events(events)) < 256 * 64


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 50))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(messages: list[bytes], size: int) -> None:
    stream = b"".join(map(framed, messages))
    frames, found = Frames(), []
    for start in range(0, len(stream), size):
        found += frames.feed(stream[start : start + size])
    assert found == messages


def test_a_length_that_nobody_sends_is_refused() -> None:
    with pytest.raises(ValueError, match="claims"):
        list(Frames().feed((MOST_BYTES + 1).to_bytes(4, "little")))


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x93\x63\x01\x02"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_to_engine(data)


def test_marks_tell_who_was_in_the_steps_in_flight() -> None:
    file = Marks.new_file()
    engine, parent = Marks(file), Marks(file)
    os.close(file)
    assert (parent.numbers(), parent.busy_since) == (frozenset(), None)
    engine.busy(12.5)
    engine.added(3)
    engine.added(4)
    assert (parent.numbers(), parent.busy_since) == (frozenset({3, 4}), 12.5)
    engine.planned(0, [3, 4])
    engine.planned(1, [4, 5])
    assert parent.numbers() == {3, 4, 5}
    engine.landed(0)
    assert parent.numbers() == {4, 5}
    engine.planned(2, list(range(CAPACITY + 1)))
    assert parent.numbers() is None
    engine.landed(2)
    engine.landed(1)
    engine.idle()
    assert (parent.numbers(), parent.busy_since) == (frozenset(), None)
    engine.close()
    parent.close()
