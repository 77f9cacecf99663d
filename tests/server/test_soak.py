"""benchmarks/soak.py: clients come and leave, and nothing of them is kept."""

from __future__ import annotations

import asyncio
import os

import pytest
from tests.support.scripts import BENCHMARKS, load_script


@pytest.mark.parametrize(
    ("connections", "seconds"),
    [(30, 8.0), pytest.param(500, 120.0, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)
def test_clients_that_leave_leave_nothing(connections: int, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    soak = load_script("soak")
    figures = asyncio.run(soak.run(None, connections, seconds, dict(os.environ)))
    assert figures["faults"] == [], figures
    assert figures["ends"]["200"] > connections / 4
    assert figures["ends"]["left"] > connections / 8
    assert figures["most_running"] > connections / 4
