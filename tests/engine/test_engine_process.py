"""The engine in a process of its own: it serves, answers, refuses, stops in good order, and goes with its parent."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from plait.config import EngineOptions, SupervisorOptions
from plait.errors import (
    DeadlineError,
    EngineDownError,
    KVFileError,
    ModelFileError,
    ModelNotFoundError,
    OptionError,
    PlaitError,
    PromptTooLongError,
    QueueFullError,
    QueueTimeoutError,
    RequestError,
)
from plait.supervisor.client import EngineState
from plait.supervisor.supervisor import Supervisor
from plait.types import FinishReason
from support.processes import collect, mixed, outcomes, pid_of, request, supervised

READY_S = 3.0


def test_an_engine_is_ready_soon_and_streams_what_the_library_gives(capsys: pytest.CaptureFixture[str]) -> None:
    from plait.api import LLM
    from plait.types import SamplingParams

    async def main() -> tuple[float, list[int]]:
        began = time.monotonic()
        async with supervised() as supervisor:
            seconds = time.monotonic() - began
            info = supervisor.info
            assert info is not None
            assert (info.vocab_size, info.context_length, info.architecture) == (8192, 8192, "llama")
            assert info.kv_tokens >= info.context_length
            (sample,) = await collect(supervisor, request("a", range(5, 30), temperature=0.0))
            return seconds, sample.tokens

    seconds, tokens = asyncio.run(main())
    with capsys.disabled():
        print(f" [ready after {seconds:.2f} s]", end="")
    assert seconds < READY_S
    with LLM(threads=1) as llm:
        params = SamplingParams(seed=1, max_tokens=20, temperature=0.0, ignore_eos=True)
        alone = llm.generate([list(range(5, 30))], params)[0].samples[0]
    assert tokens == list(alone.token_ids)


def test_the_parent_loads_no_arrays() -> None:
    code = (
        "import sys, plait.supervisor.supervisor, plait.wire.messages\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'tokenizers', 'torch') or "
        "m.startswith(('plait.engine', 'plait.scheduler', 'plait.cache', 'plait.models', 'plait.ops'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_many_streams_end_once_each_with_what_they_yield_alone() -> None:
    requests = mixed(40, most_tokens=30)

    async def main() -> None:
        async with supervised() as supervisor:
            together = await outcomes(supervisor, requests)
            alone = [(await outcomes(supervisor, [one]))[0] for one in requests]
            assert together == alone

    asyncio.run(main())


def test_refusals_are_final_events_of_their_class() -> None:
    async def main() -> None:
        async with supervised(max_queue_requests=1, n_parallel=1, n_ctx=256) as supervisor:
            (empty,) = await collect(supervisor, request("empty", ()))
            assert isinstance(empty.final.error, RequestError)  # type: ignore[union-attr]
            (long,) = await collect(supervisor, request("long", [7] * 300))
            assert isinstance(long.final.error, PromptTooLongError)  # type: ignore[union-attr]
            several = [collect(supervisor, request(f"q{i}", n=2, max_tokens=50)) for i in range(8)]
            ends = [sample.final for samples in await asyncio.gather(*several) for sample in samples]
            full = [end.error for end in ends if end is not None and end.error is not None]
            assert full
            assert all(isinstance(error, QueueFullError) and error.retry_after >= 1 for error in full)
            assert len(full) < len(ends)

    asyncio.run(main())


def test_an_id_in_use_is_refused_at_once() -> None:
    async def main() -> None:
        async with supervised() as supervisor:
            stream = supervisor.submit(request("same", max_tokens=None))
            with pytest.raises(RequestError, match="in use"):
                supervisor.submit(request("same"))
            stream.abort()
            assert [event.finish_reason async for event in stream if event.final] == [FinishReason.ABORT]

    asyncio.run(main())


def test_what_no_message_can_hold_ends_that_request_alone_now_and_when_the_engine_is_started_anew() -> None:
    too_large = replace(request("large", n=2), salt="s", salt_from=2**70)

    async def main() -> None:
        async with supervised() as supervisor:
            for _ in range(2):
                samples = await collect(supervisor, too_large)
                assert [sample.outcome for sample in samples] == [((), None, RequestError)] * 2
                os.kill(pid_of(supervisor), signal.SIGKILL)
                while supervisor.pid is not None:
                    await asyncio.sleep(0)
            waiting = supervisor.submit(too_large)  # while there is none
            (sample,) = await collect(supervisor, request("a"))
            assert len(sample.tokens) == 20
            assert [type(event.error) async for event in waiting] == [RequestError] * 2
            assert supervisor.health().restarts == 2
            with pytest.raises(RequestError, match="handed"):
                await supervisor.erase_prefix((2**70,))

    asyncio.run(main())


def test_abort_and_finish_end_what_they_name() -> None:
    async def main() -> None:
        async with supervised() as supervisor:
            stream = supervisor.submit(request("two", n=2, max_tokens=None, ignore_eos=True))
            first = await stream.__anext__()
            stream.finish(0)
            ends = {}
            async for event in stream:
                if event.final:
                    ends[event.index] = event.finish_reason
                    stream.abort()
                    stream.abort()
            assert first.tokens
            assert ends == {0: FinishReason.STOP, 1: FinishReason.ABORT}
            assert (await supervisor.status()).running == ()

    asyncio.run(main())


def test_status_tells_of_running_requests_and_figures() -> None:
    async def main() -> None:
        async with supervised() as supervisor:
            stream = supervisor.submit(request("long", range(5, 100), n=2, max_tokens=None))
            for _ in range(4):
                await stream.__anext__()
            status = await supervisor.status()
            (running,) = status.running
            assert (running.request_id, running.samples, running.prompt_tokens) == ("long", 2, 95)
            assert (running.phase, running.priority) == ("decode", "normal")
            assert running.generated_tokens >= 4
            assert running.age_s > 0
            assert status.metrics["plait_steps_total"][""] > 0
            bounds, counts, _ = status.histograms["plait_time_to_first_token_seconds"]
            assert len(counts) == len(bounds) + 1
            stream.abort()

    asyncio.run(main())


def test_a_prefix_is_saved_erased_and_restored(tmp_path: Path) -> None:
    prompt, file = tuple(range(5, 105)), str(tmp_path / "prefix.kv")

    async def main() -> None:
        async with supervised() as supervisor:
            (before,) = await collect(supervisor, request("a", prompt))
            assert await supervisor.save_prefix(prompt, file) == 96
            tokens = (*prompt, *before.tokens)
            assert await supervisor.erase_prefix(tokens) >= 100
            (cold,) = await collect(supervisor, request("b", prompt))
            assert cold.final.cached_tokens == 0  # type: ignore[union-attr]
            await supervisor.erase_prefix(tokens)
            assert await supervisor.restore_prefix(file) == 96
            (warm,) = await collect(supervisor, request("c", prompt))
            assert warm.final.cached_tokens == 96  # type: ignore[union-attr]
            assert before.tokens == cold.tokens == warm.tokens
            with pytest.raises(RequestError, match="nothing"):
                await supervisor.save_prefix((4000, 4001), file)
            with pytest.raises(RequestError, match="cannot be written"):
                await supervisor.save_prefix(prompt, str(tmp_path / "no" / "folder"))
            with pytest.raises(PlaitError, match="null byte"):  # an error that nobody foresaw: the question's alone
                await supervisor.save_prefix(prompt, str(tmp_path / "a\0b"))
            Path(file).write_bytes(b"not one of ours")
            with pytest.raises(KVFileError, match="no file of saved KV memory"):
                await supervisor.restore_prefix(file)
            assert supervisor.health().restarts == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("model", "options", "kind"),
    [
        ("/nowhere/model.gguf", {}, ModelNotFoundError),
        ("DAMAGED", {}, ModelFileError),
        (None, {"kv_memory": 2**30}, OptionError),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_error(
    tmp_path: Path, model: str | None, options: dict[str, int], kind: type[Exception]
) -> None:
    if model == "DAMAGED":
        (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(20))
        model = str(tmp_path / "model.gguf")

    async def main() -> None:
        supervisor = Supervisor(model, EngineOptions(threads=1, **options))
        await supervisor.start()
        early = supervisor.submit(request("early", n=2))
        with pytest.raises(kind):
            await supervisor.ready()
        assert [type(event.error) async for event in early] == [EngineDownError] * 2
        assert supervisor.health().state is EngineState.FAILED
        with pytest.raises(EngineDownError):
            supervisor.submit(request("late"))
        with pytest.raises(EngineDownError):
            await supervisor.status()
        await supervisor.stop()

    asyncio.run(main())


def test_requests_wait_for_an_engine_that_starts() -> None:
    async def main() -> None:
        supervisor = Supervisor(None, EngineOptions(threads=1))
        await supervisor.start()
        assert supervisor.health().state is EngineState.STARTING
        (sample,) = await collect(supervisor, request("early"))
        assert sample.final is not None
        assert sample.final.error is None
        await supervisor.stop()

    asyncio.run(main())


def test_a_drain_finishes_what_is_short_and_hands_back_what_is_not() -> None:
    async def main() -> None:
        async with supervised() as supervisor:
            short = asyncio.ensure_future(collect(supervisor, request("short", max_tokens=30)))
            long = asyncio.ensure_future(collect(supervisor, request("long", max_tokens=None)))
            await asyncio.sleep(0.1)
            stopping = asyncio.ensure_future(supervisor.stop(1.0))
            await asyncio.sleep(0.05)
            assert supervisor.health().state is EngineState.DRAINING
            with pytest.raises(EngineDownError, match="stopping"):
                supervisor.submit(request("late"))
            (ended,), (cut,) = await short, await long
            assert (len(ended.tokens), ended.final.finish_reason) == (30, FinishReason.LENGTH)  # type: ignore[union-attr]
            assert cut.tokens
            assert isinstance(cut.final.error, EngineDownError)  # type: ignore[union-attr]
            await stopping
            assert supervisor.pid is None

    asyncio.run(main())


PARENT = """
import asyncio, sys
from plait.config import EngineOptions
from plait.supervisor.supervisor import Supervisor
from support.processes import request

async def main():
    supervisor = Supervisor(None, EngineOptions(threads=1))
    await supervisor.start()
    await supervisor.ready()
    stream = supervisor.submit(request("a", max_tokens=None))
    await stream.__anext__()
    print(supervisor.pid, flush=True)
    await asyncio.sleep(100)

asyncio.run(main())
"""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_an_engine_does_not_outlive_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _alive(pid)
        parent.kill()
        end = time.monotonic() + 1.0
        while _alive(pid) and time.monotonic() < end:
            time.sleep(0.01)
        assert not _alive(pid)


def test_signals_to_the_engine_are_its_parents_business() -> None:
    async def main() -> None:
        async with supervised() as supervisor:
            assert supervisor.pid is not None
            before = supervisor.pid
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(before, number)
            (sample,) = await collect(supervisor, request("a"))
            assert sample.final is not None
            assert sample.final.error is None
            assert supervisor.pid == before

    asyncio.run(main())


def test_a_step_that_hangs_is_ended_and_its_streams_go_on(caplog: pytest.LogCaptureFixture) -> None:
    requests = mixed(6, most_tokens=50)

    async def main() -> None:
        async with supervised(SupervisorOptions(step_timeout=0.5)) as supervisor:
            whole = await outcomes(supervisor, requests)
            running = asyncio.ensure_future(outcomes(supervisor, requests))
            await asyncio.sleep(0.05)
            assert supervisor.pid is not None
            os.kill(supervisor.pid, signal.SIGSTOP)
            await asyncio.sleep(0.2)
            age = supervisor.health().step_age_s
            assert age is not None
            assert age >= 0.1
            assert await running == whole
            assert supervisor.health().restarts == 1

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "a step takes more than" in caplog.text


def test_an_idle_engine_does_not_spin() -> None:
    async def main() -> None:
        async with supervised() as supervisor:
            await collect(supervisor, request("a"))
            await asyncio.sleep(0.2)
            before = _cpu_ticks(supervisor.pid)
            await asyncio.sleep(0.5)
            assert _cpu_ticks(supervisor.pid) - before <= 5
            assert supervisor.health().step_age_s is None

    asyncio.run(main())


def _cpu_ticks(pid: int | None) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_while_no_engine_runs_deadlines_are_kept_and_health_tells_why() -> None:
    async def main() -> None:
        async with supervised() as supervisor:
            assert not supervisor.health().degraded
            first = supervisor.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            while supervisor.pid in (first, None):
                await asyncio.sleep(0.001)
            assert supervisor.pid is not None
            os.kill(supervisor.pid, signal.SIGSTOP)  # the new one is not ready for as long as it takes
            assert supervisor.health().state is EngineState.RESTARTING
            began = time.monotonic()
            late, queued = await asyncio.gather(
                collect(supervisor, replace(request("late"), deadline=began + 0.5)),
                collect(supervisor, replace(request("queued"), queue_timeout=0.5)),
            )
            assert time.monotonic() - began < 5
            assert late[0].outcome == ((), None, DeadlineError)
            assert queued[0].outcome == ((), None, QueueTimeoutError)
            os.kill(supervisor.pid, signal.SIGCONT)
            (sample,) = await collect(supervisor, request("patient"))
            assert sample.tokens
            health = supervisor.health()
            assert (health.state, health.degraded) == (EngineState.READY, True)
            assert "was started anew" in health.reason

    asyncio.run(main())
