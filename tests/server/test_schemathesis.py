"""Requests drawn from the published OpenAPI document, sound ones and broken ones: whatever they are, the answer is one
that the document announces, and never our own fault."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import content_type_conformance, response_schema_conformance, status_code_conformance
from tests.support.servers import RunningServer, start_server

from plait.server.app import ROUTES, Entry

CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]
KINDS = [
    pytest.param(entry, mode, id=f"{entry.method} {entry.path} {mode.value}")
    for entry in ROUTES
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if mode is GenerationMode.POSITIVE or entry.body is not None  # there is nothing to be wrong without one
]
SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def hurried() -> Iterator[RunningServer]:
    """A server that gives each request a second: many of those drawn want as many tokens as fit."""
    with start_server("--timeout", "1") as running:
        yield running


@pytest.fixture(scope="module")
def schema(hurried: RunningServer) -> schemathesis.openapi.OpenApiSchema:
    return schemathesis.openapi.from_url(f"{hurried.url}/openapi.json")


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        yield made


@pytest.mark.parametrize("examples", [10, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize(("entry", "mode"), KINDS)
def test_no_request_is_answered_with_our_own_fault(
    hurried: RunningServer,
    schema: schemathesis.openapi.OpenApiSchema,
    session: requests.Session,
    entry: Entry,
    mode: GenerationMode,
    examples: int,
) -> None:
    operation = schema[entry.path.replace(":path", "").replace(":int", "")][entry.method]

    @settings(SETTINGS, max_examples=examples)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        answer = case.call(session=session, timeout=60)
        assert answer.status_code != 500, answer.text
        case.validate_response(answer, checks=CHECKS)

    ask()
    assert not [line for line in hurried.log if "Traceback" in line]
    assert hurried.status()["health"]["restarts"] == 0
