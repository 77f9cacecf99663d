"""A real server on a real socket, with the bundled model in an engine process; one for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI
from tests.support.servers import RunningServer, start_server


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    with start_server() as running:
        yield running


@pytest.fixture(scope="session")
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made
