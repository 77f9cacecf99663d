"""Engines that die: streams go on as if nothing had happened, and who is to blame is found."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress

import pytest

from plait.config import CRASH_TOKEN, EngineOptions, SupervisorOptions
from plait.errors import EngineCrashError, EngineDownError
from plait.supervisor.client import EngineState
from plait.supervisor.supervisor import Supervisor
from plait.types import FinishReason
from support.processes import VOCAB, collect, kill_often, mixed, outcomes, request, serving, supervised

POISON = VOCAB - 1


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="plait")


async def _undisturbed(requests: list) -> list:  # type: ignore[type-arg]
    async with supervised() as supervisor:
        return await outcomes(supervisor, requests)


async def _disturbed(requests: list, kills: int, seed: int, pause_s: float) -> tuple[list, int]:  # type: ignore[type-arg]
    async with supervised(SupervisorOptions(max_restarts=100)) as supervisor:
        running = asyncio.ensure_future(outcomes(supervisor, requests))
        await kill_often(supervisor, kills, seed, pause_s)
        return await running, supervisor.health().restarts


def test_streams_survive_an_engine_that_is_killed_again_and_again() -> None:
    async def main() -> None:
        requests = mixed(50, seed=1, most_tokens=120)
        found, crashes = await _disturbed(requests, kills=10, seed=2, pause_s=0.5)
        assert crashes == 10
        assert found == await _undisturbed(requests)

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_two_hundred_streams_survive(seed: int) -> None:
    async def main() -> None:
        requests = mixed(200, seed=seed, most_tokens=200)
        found, crashes = await _disturbed(requests, kills=10, seed=seed, pause_s=2.0)
        assert crashes == 10
        assert found == await _undisturbed(requests)

    asyncio.run(main())


def test_the_poisoned_one_fails_and_the_others_do_not_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = mixed(50, seed=3, most_tokens=40)
    assert all(POISON not in one.prompt for one in requests)
    whole = asyncio.run(_undisturbed(requests))
    monkeypatch.setenv(CRASH_TOKEN, str(POISON))
    poisoned = request("poisoned", (5, 6, POISON, 7), n=2)

    async def main() -> int:
        async with supervised() as supervisor:
            mixed_in = [*requests[:23], poisoned, *requests[23:]]
            found = await outcomes(supervisor, mixed_in)
            bad = found.pop(23)
            assert [error for _, _, error in bad] == [EngineCrashError] * 2
            # a prompt or a draw that holds the token would crash, too: none of these does
            assert found == whole
            return supervisor.health().restarts

    assert asyncio.run(main()) <= 10


def test_two_poisoned_ones_are_both_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CRASH_TOKEN, str(POISON))

    async def main() -> None:
        async with supervised() as supervisor:
            requests = [request(f"r{i}", (5 + i, 6), seed=i) for i in range(12)]
            requests[4:4] = [request("bad", (5, POISON)), request("worse", (POISON, 7))]
            found = await outcomes(supervisor, requests)
            assert [i for i, ((_, _, error),) in enumerate(found) if error is EngineCrashError] == [4, 5]
            assert all(error is None for i, ((_, _, error),) in enumerate(found) if i not in (4, 5))
            assert supervisor.health().state is EngineState.READY

    asyncio.run(main())


def test_a_stream_that_was_ended_by_its_reader_stays_so_after_a_crash() -> None:
    async def main() -> None:
        async with supervised() as supervisor:
            stopped = supervisor.submit(request("stopped", n=2, max_tokens=None))
            left = supervisor.submit(request("left", max_tokens=None))
            await asyncio.gather(stopped.__anext__(), left.__anext__())
            pid = await serving(supervisor)
            os.kill(pid, signal.SIGSTOP)  # it will not hear of it
            stopped.finish(1)
            left.abort()
            os.kill(pid, signal.SIGKILL)
            assert [e.finish_reason async for e in left if e.final] == [FinishReason.ABORT]
            ends = {}
            async for event in stopped:
                if event.final:
                    ends[event.index] = event.finish_reason
                    stopped.abort()
            assert ends == {0: FinishReason.ABORT, 1: FinishReason.STOP}

    asyncio.run(main())


def test_an_engine_that_always_dies_is_given_up() -> None:
    async def main() -> None:
        supervisor = Supervisor(None, EngineOptions(threads=1), SupervisorOptions(max_restarts=1))
        await supervisor.start()
        await supervisor.ready()
        stream = asyncio.ensure_future(collect(supervisor, request("a", range(3, 4000), n=2, max_tokens=None)))
        while supervisor.health().state is not EngineState.FAILED:
            if supervisor.pid is not None:
                with suppress(ProcessLookupError):  # it is dead, and the supervisor has not heard of it yet
                    os.kill(supervisor.pid, signal.SIGKILL)
            await asyncio.sleep(0.02)
        assert [type(sample.final.error) for sample in await stream] == [EngineDownError] * 2  # type: ignore[union-attr]
        assert "SIGKILL" in supervisor.health().reason
        with pytest.raises(EngineDownError):
            supervisor.submit(request("late"))
        await supervisor.stop()

    asyncio.run(main())
