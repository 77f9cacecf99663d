"""Prompts kept on disk: a hit after a restart, with the same bits; a bad file is a warning; salts stay apart."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from plait.config import EngineOptions
from plait.engine.build import build_engine
from plait.engine.core import Engine
from plait.models.registry import LoadedModel, load_model
from plait.types import CacheMode, EngineRequest, SamplingParams, TokenEvent
from support.tiny_llama import TinyLlama

LONG = tuple(3 + (i * i) % 29 for i in range(300))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(TinyLlama(context=512).source("gguf"))


def engine(model: LoadedModel, folder: Path | None, **changes: object) -> Engine:
    options = {
        "device": "cpu",
        "threads": 1,
        "n_parallel": 4,
        "n_batch": 64,
        "kv_cache_dir": str(folder or ""),
    } | changes
    return build_engine(model, EngineOptions(**options))  # type: ignore[arg-type]


def request(name: str, prompt: tuple[int, ...] = LONG, **fields: object) -> EngineRequest:
    sampling = SamplingParams(max_tokens=8, temperature=0)
    return EngineRequest(request_id=name, prompt=prompt, sampling=sampling, **fields)  # type: ignore[arg-type]


def serve(engine: Engine, *requests: EngineRequest) -> dict[str, tuple[tuple[int, ...], int]]:
    """Tokens and cached tokens of each request."""
    for one in requests:
        engine.add(one)
    tokens: dict[str, list[int]] = {}
    cached: dict[str, int] = {}
    for event in run(engine):
        tokens.setdefault(event.request_id, []).extend(event.tokens)
        if event.final:
            assert event.error is None
            cached[event.request_id] = event.cached_tokens
    return {name: (tuple(tokens[name]), cached[name]) for name in cached}


def run(engine: Engine) -> list[TokenEvent]:
    events: list[TokenEvent] = []
    while engine.has_work:
        events += engine.step()
        engine.check()
    return events


@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize("page_size", [16, 4])
def test_after_a_restart_the_same_prompt_is_a_hit(
    model: LoadedModel, tmp_path: Path, in_flight: int, page_size: int
) -> None:
    first = engine(model, tmp_path, in_flight=in_flight)
    (fresh, cached) = serve(first, request("a"))["a"]
    first.close()
    assert cached == 0
    assert len(list(tmp_path.iterdir())) == 4
    second = engine(model, tmp_path, in_flight=in_flight, page_size=page_size)
    longer = (*LONG[:200], *LONG[:90])
    got = serve(second, request("b"), request("c", longer), request("d", LONG[:63]))
    assert got["b"] == (fresh, 256)
    assert got["c"][1] >= 192
    assert got["d"][1] == 0 or got["d"][1] == 48
    second.close()
    plain = engine(model, None)
    wanted = serve(plain, request("b"), request("c", longer), request("d", LONG[:63]))
    assert {name: tokens for name, (tokens, _) in got.items()} == {name: tokens for name, (tokens, _) in wanted.items()}
    plain.close()


def test_many_at_once_on_either_side_of_a_restart(model: LoadedModel, tmp_path: Path) -> None:
    prompts = [(*LONG[: 64 * (i % 3)], *((i + 5,) * 70), *LONG[:40]) for i in range(9)]
    asked = [request(f"r{i}", prompt) for i, prompt in enumerate(prompts)]
    plain = engine(model, None)
    wanted = serve(plain, *asked)
    plain.close()
    for _ in range(2):
        one = engine(model, tmp_path, kv_memory=1)
        got = serve(one, *asked)
        one.close()
        assert {name: tokens for name, (tokens, _) in got.items()} == {name: t for name, (t, _) in wanted.items()}
    assert all(cached >= 64 for _, cached in got.values())


def test_salts_and_modes_hold_on_disk_too(model: LoadedModel, tmp_path: Path) -> None:
    first = engine(model, tmp_path)
    serve(first, request("a", salt="x", salt_from=130), request("off", LONG[100:200], cache=CacheMode.OFF))
    first.close()
    assert len(list(tmp_path.iterdir())) == 4
    for fields, cached in (
        ({"salt": "x", "salt_from": 130}, 256),
        ({"salt": "y", "salt_from": 130}, 128),
        ({}, 128),
        ({"salt": "y"}, 0),
        ({"salt": "x", "salt_from": 130, "cache": CacheMode.OFF}, 0),
    ):
        again = engine(model, tmp_path)
        assert serve(again, request("b", **fields))["b"][1] == cached, fields
        again._disk._ended.clear()  # type: ignore[union-attr]  # leave the folder as it is
        again.close()
        for path in tmp_path.iterdir():
            path.touch()


def test_a_damaged_file_is_removed_with_a_warning(
    model: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = engine(model, tmp_path)
    fresh, _ = serve(first, request("a"))["a"]
    first.close()
    names = engine_names(first)
    (tmp_path / "notes.kv").write_text("somebody else's")
    (tmp_path / names[2]).write_bytes((tmp_path / names[2]).read_bytes()[:-5])
    with caplog.at_level(logging.WARNING, logger="plait"):
        second = engine(model, tmp_path)
        assert serve(second, request("a"))["a"] == (fresh, 128)
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path / names[2]}: is damaged or cut short; save it again; it is removed"
    ]
    second.close()
    third = engine(model, tmp_path)
    assert serve(third, request("a"))["a"] == (fresh, 256), "it was written anew"
    third.close()
    assert (tmp_path / "notes.kv").exists()


def engine_names(engine: Engine) -> list[str]:
    assert engine._disk is not None
    return engine._disk._store.names(LONG)


def test_another_model_finds_nothing(model: LoadedModel, tmp_path: Path) -> None:
    first = engine(model, tmp_path)
    serve(first, request("a"))
    first.close()
    other = engine(load_model(TinyLlama(context=512, ff=32).source("gguf")), tmp_path)
    assert serve(other, request("a"))["a"][1] == 0
    other.close()
    wide = engine(model, tmp_path, kv_type="f32")
    assert serve(wide, request("a"))["a"][1] == 0
    wide.close()


def test_a_folder_that_cannot_be_used_is_a_warning(
    model: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, logger="plait"):
        one = engine(model, tmp_path / "file" / "kv")
        assert len(serve(one, request("a"))["a"][0]) == 8
        one.close()
    assert any("cannot be made" in r.getMessage() for r in caplog.records)


def test_a_request_that_ends_while_it_is_read_for_leaves_nothing_behind(model: LoadedModel, tmp_path: Path) -> None:
    first = engine(model, tmp_path)
    serve(first, request("a"))
    first.close()
    second = engine(model, tmp_path)
    second.add(request("a"))
    second._scheduler.schedule()  # asks for it, and it is read for
    assert second._disk is not None
    assert second._disk.loading
    second.abort("a")
    assert [e.finish_reason for e in run(second)] == ["abort"]
    assert not second._disk.loading
    assert serve(second, replace(request("a"), request_id="b"))["b"][1] == 256
    second.close()
