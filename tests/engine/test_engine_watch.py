"""How the parent sees an engine's end, and goes on watching whatever happens."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

import pytest

from plait.errors import DeadlineError
from plait.supervisor import supervisor as module
from plait.types import TokenEvent
from plait.wire.frames import framed
from support.processes import collect, pid_of, request, serving, supervised


def test_an_engine_that_leaves_by_itself_is_not_said_to_be_killed(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with supervised() as supervisor:
            before = pid_of(supervisor)
            child = supervisor._child
            assert child is not None
            assert child._transport is not None
            child._transport.write(framed(b"\xc1"))  # no message at all: the loop fails, and the process leaves
            await child.gone
            while await serving(supervisor) == before:
                await asyncio.sleep(0.01)
            (sample,) = await collect(supervisor, request("a"))
            assert len(sample.tokens) == 20

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "(crash 1): it left with exit status 1" in caplog.text


def test_a_watchdog_that_failed_once_watches_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCH_AGAIN_S", 0.01)

    async def main() -> None:
        async with supervised() as supervisor:
            expired, failures = supervisor._roster.expired, [ZeroDivisionError("once")]

            def fails_once(now: float) -> list[TokenEvent]:
                if failures:
                    raise failures.pop()
                return expired(now)

            monkeypatch.setattr(supervisor._roster, "expired", fails_once)
            while failures:
                await asyncio.sleep(0.01)
            supervisor._serving = False  # nobody but the watchdog sees that it is too late
            late = collect(supervisor, replace(request("late"), deadline=time.monotonic() + 0.1))
            (sample,) = await asyncio.wait_for(late, 10)
            assert sample.outcome == ((), None, DeadlineError)
            supervisor._serving = True

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "watchdog fails" in caplog.text
