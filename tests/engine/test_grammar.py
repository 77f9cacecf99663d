"""Answers held to a grammar: what the engine yields matches, whatever else is in the batch; faults stay alone."""

from __future__ import annotations

import gc
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from plait import LLM, SamplingParams
from plait.engine.core import Engine
from plait.errors import GrammarError, RequestError
from plait.models.registry import LoadedModel, load_model
from plait.types import EngineRequest, FinishReason, Grammar, GrammarKind, Priority
from support.serving import STREAMS, Letters, collect, each_alone, engine_of, serve, some_requests
from support.tiny_llama import VARIANTS

WORDS = Letters()
PATTERNS = ("[ab]{3,9}[0-9]+x", "(yes|no|maybe)( (yes|no))*", "[a-z ]{30}", "[0-9]{2}", "a(b|c(d|e))*f")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(VARIANTS["gqa"].source("safetensors"))


def held(requests: list[EngineRequest], seed: int) -> list[EngineRequest]:
    """Two of three of them are to match a pattern, and some draw by Mirostat."""
    rng = random.Random(seed)
    kinds = [Grammar(GrammarKind.REGEX, pattern) for pattern in PATTERNS]
    return [
        replace(
            request,
            sampling=replace(
                request.sampling,
                grammar=rng.choice(kinds) if rng.random() < 2 / 3 else None,
                mirostat=rng.choice((0, 0, 1, 2)),
            ),
            stop_token_ids=frozenset({Letters.END}),
        )
        for request in requests
    ]


def assert_match(requests: list[EngineRequest], streams: STREAMS) -> int:
    """Complete answers match their pattern; returns how many there are."""
    complete = 0
    for request in requests:
        grammar = request.sampling.grammar
        for index in range(request.sampling.n):
            tokens, end = streams[request.request_id, index]
            if grammar is not None and end is FinishReason.STOP:
                assert re.fullmatch(grammar.source, WORDS.decode(tokens))
                complete += 1
    return complete


@pytest.mark.parametrize("backend", ["reference", "cpu-2"])
@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize(
    ("seed", "n_batch", "n_parallel", "pages", "n_draft"),
    [(1, 64, 8, 400, 0), (2, 5, 3, 400, 0), (3, 9, 6, 60, 0), (4, 32, 6, 400, 4)],
    ids=["roomy", "small-chunks", "narrow", "guessing"],
)
def test_tokens_are_those_of_each_request_alone(
    model: LoadedModel, seed: int, n_batch: int, n_parallel: int, pages: int, n_draft: int, in_flight: int, backend: str
) -> None:
    requests = held(some_requests(seed, 12), seed)
    engine = engine_of(
        model, n_batch=n_batch, n_parallel=n_parallel, pages=pages, in_flight=in_flight, backend=backend,
        n_draft=n_draft, words=WORDS,
    )  # fmt: skip
    streams = serve(engine, requests, random.Random(seed))
    assert streams == each_alone(model, requests, backend, WORDS)
    assert assert_match(requests, streams) > 1


@pytest.mark.parametrize("in_flight", [0, 1])
def test_giving_way_changes_no_token(model: LoadedModel, in_flight: int) -> None:
    requests = [
        replace(
            a_request("[a-z ]{30}", f"r{i}", seed=i, max_tokens=None, mirostat=i % 3),
            prompt=(11 + i, 12, 13),
            priority=Priority.LOW if i < 3 else Priority.HIGH,
        )
        for i in range(6)
    ]
    engine = engine_of(model, n_parallel=3, in_flight=in_flight, words=WORDS)
    events = []
    for request in requests:
        engine.add(request)
        events += [event for _ in range(4) for event in engine.step()]
    events += list(engine.run())
    assert collect(events) == each_alone(model, requests, words=WORDS)
    assert engine.stats.preemptions > 1
    engine.close()


def a_request(pattern: str, request_id: str = "a", **params: object) -> EngineRequest:
    sampling = SamplingParams(grammar=Grammar(GrammarKind.REGEX, pattern), **{"seed": 3, "max_tokens": 20, **params})  # type: ignore[arg-type]
    return EngineRequest(request_id=request_id, prompt=(11, 12, 13), sampling=sampling)


@pytest.mark.parametrize("in_flight", [0, 1])
def test_a_complete_answer_ends_with_stop_at_its_last_token(model: LoadedModel, in_flight: int) -> None:
    """Though the request has no stop ids, and may draw more tokens."""
    streams = serve(engine_of(model, in_flight=in_flight, words=WORDS), [a_request("(ab|cd)e", n=3)])
    assert {WORDS.decode(tokens) for tokens, _ in streams.values()} <= {"abe", "cde"}
    assert {(len(tokens), end) for tokens, end in streams.values()} == {(3, FinishReason.STOP)}


def test_an_answer_that_might_go_on_ends_with_an_end_token(model: LoadedModel) -> None:
    request = replace(a_request("ab*", temperature=3.0, max_tokens=None), stop_token_ids=frozenset({Letters.END}))
    streams = serve(engine_of(model, words=WORDS), [request])
    ((tokens, end),) = streams.values()
    assert end is FinishReason.STOP
    assert re.fullmatch("ab*", WORDS.decode(tokens))


@pytest.mark.parametrize("kept", [0, 1, 4, 9])
def test_it_is_taken_up_after_the_tokens_that_were_handed_out(model: LoadedModel, kept: int) -> None:
    request = a_request("[ab]{12}[0-9]{4}", temperature=2.0)
    whole, end = serve(engine_of(model, words=WORDS), [request])["a", 0]
    resumed = replace(request, resume=(whole[:kept],))
    assert serve(engine_of(model, words=WORDS), [resumed])["a", 0] == (whole[kept:], end)


@pytest.mark.parametrize("in_flight", [0, 1])
def test_a_grammar_that_fails_is_its_own_requests_end(model: LoadedModel, in_flight: int) -> None:
    """Faces check grammars; should one come through, or grow too large only while it is used, that is all."""
    others = held(some_requests(5, 5), 5)
    bad = replace(a_request("x", "bad"), sampling=SamplingParams(seed=1, n=2, grammar=Grammar(GrammarKind.REGEX, "a(")))
    streams = serve(engine_of(model, in_flight=in_flight, words=WORDS), [*others[:2], bad, *others[2:]])
    assert [streams.pop(("bad", i)) for i in range(2)] == [((), RequestError)] * 2
    assert streams == each_alone(model, others, words=WORDS)


def test_a_grammar_whose_letters_no_token_has_is_the_error_of_its_row(model: LoadedModel) -> None:
    streams = serve(engine_of(model, words=WORDS), [a_request("[A-Z]+")])
    assert streams["a", 0] == ((), GrammarError)


def test_an_engine_without_a_tokenizer_refuses(model: LoadedModel) -> None:
    engine = engine_of(model)
    with pytest.raises(RequestError, match="no tokenizer"):
        engine.add(a_request("a"))
    engine.close()


@pytest.mark.parametrize("in_flight", [0, 1])
def test_nothing_is_kept_of_requests_that_ended(model: LoadedModel, in_flight: int) -> None:
    engine = engine_of(model, in_flight=in_flight, words=WORDS)
    for request in [*held(some_requests(9, 6), 9), a_request("[ab]+", "aborted", n=2, max_tokens=None)]:
        engine.add(request)
    for _ in range(5):
        engine.step()
    engine.abort("aborted")
    list(engine.run())
    assert _kept(engine) == (0, 0, 0)
    engine.close()


def _kept(engine: Engine) -> tuple[int, int, int]:
    grammars = engine._grammars
    assert grammars is not None
    return len(grammars._matches), len(grammars._masks), len(grammars._requests)


# --- the bundled model ----------------------------------------------------------------------------------------------

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "pets": {"type": "array", "items": {"enum": ["cat", "dog"]}, "maxItems": 2},
    },
    "required": ["name", "age", "pets"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("in_flight", [0, 1])
def test_a_schema_is_kept_by_every_sample(in_flight: int) -> None:
    params = SamplingParams(grammar=Grammar(GrammarKind.JSON_SCHEMA, json.dumps(PERSON)), seed=2, n=2, max_tokens=300)
    with LLM(in_flight=in_flight, adaptive="off") as llm:
        told = llm.generate(["My friend", "Once upon a time", "{"], params)
        for sample in (sample for one in told for sample in one.samples):
            person = json.loads(sample.text)
            assert set(person) == {"name", "age", "pets"}
            assert len(person["name"]) <= 12
            assert person["age"] in range(151)
            assert set(person["pets"]) <= {"cat", "dog"}
            assert sample.finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("kind", "source", "pattern"),
    [
        (
            "gbnf",
            'root ::= word (" and " word){1,2}\nword ::= "cats" | [a-d]+',
            r"(cats|[a-d]+)( and (cats|[a-d]+)){1,2}",
        ),
        ("lark", 'start: NUMBER ("+" NUMBER)*\nNUMBER: /[1-9][0-9]{0,2}/', r"[1-9][0-9]{0,2}(\+[1-9][0-9]{0,2})*"),
        ("regex", r"\d{4}-\d{2}-\d{2}", r"\d{4}-\d{2}-\d{2}"),
    ],
)
def test_every_kind_of_grammar(kind: GrammarKind, source: str, pattern: str) -> None:
    params = SamplingParams(grammar=Grammar(kind, source), seed=1, n=3, max_tokens=200, ignore_eos=True)
    with LLM() as llm:
        for sample in llm.generate("The answer is", params)[0].samples:
            assert re.fullmatch(pattern, sample.text), sample.text
            assert sample.finish_reason is FinishReason.STOP


def test_a_stop_string_ends_it_sooner() -> None:
    params = SamplingParams(grammar=Grammar(GrammarKind.REGEX, "(ab )+"), stop=("b ab",), temperature=0, max_tokens=60)
    with LLM() as llm:
        assert llm.generate("x", params)[0].text == "a"


def test_a_grammar_that_cannot_be_kept_is_refused_before_anything_runs() -> None:
    with LLM() as llm:
        for grammar in (Grammar(GrammarKind.JSON_SCHEMA, '{"not": {}}'), Grammar(GrammarKind.LARK, "start: x")):
            with pytest.raises(RequestError, match="cannot be used"):
                llm.generate(["a", "b"], [SamplingParams(), SamplingParams(grammar=grammar)])
        assert llm.stats.steps == 0


@pytest.mark.slow
def test_a_thousand_schemas_leave_no_memory_behind() -> None:
    def serve_some(llm: LLM, first: int, count: int) -> float:
        for number in range(first, first + count, 10):
            schemas = [
                {
                    "type": "object",
                    "properties": {f"key{i}_{j}": {"type": "string"} for j in range(20)},
                    "required": [f"key{i}_0"],
                }
                for i in range(number, number + 10)
            ]
            grammars = [Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema)) for schema in schemas]
            llm.generate(["x"] * 10, [SamplingParams(grammar=g, max_tokens=3, seed=1) for g in grammars])
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    with LLM() as llm:
        warm = serve_some(llm, 0, 200)
        after = serve_some(llm, 200, 1000)
        assert after - warm < 30, f"{after - warm:.0f} MB more after a thousand schemas"
