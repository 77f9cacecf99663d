"""Every sampler does over HTTP what its value says, each with one that leaves it no choice. By temperature 5 alone a
model this small writes anything, so a sampler that the engine ignored would be seen."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.servers import RunningServer

FREE = {"temperature": 5.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")


def tokens(server: RunningServer, seed: int = 1, prompt: str = "Once upon a time", **fields: Any) -> list[int]:
    asked = {"prompt": prompt, "n_predict": 12, "ignore_eos": True, "return_tokens": True, "seed": seed}
    status, _, found = server.post("/completion", {**asked, **FREE, **fields})
    assert status == 200, found
    return list(found["tokens"])


@pytest.fixture(scope="module")
def greedy(server: RunningServer) -> list[int]:
    return tokens(server, temperature=0)


def test_a_seed_is_kept_and_tells(server: RunningServer, greedy: list[int]) -> None:
    free = tokens(server)
    assert free == tokens(server, seed=1)
    assert free != tokens(server, seed=2)
    assert free != greedy
    assert tokens(server, seed=-1) != tokens(server, seed=-1)


ONLY_THE_BEST: list[dict[str, Any]] = [
    {"top_k": 1},
    {"top_p": 1e-6},
    {"min_p": 1.0},
    {"top_n_sigma": 1e-6},
    {"mirostat": 1, "mirostat_tau": 0.0},
    {"mirostat": 2, "mirostat_tau": 0.0},
]


@pytest.mark.parametrize("fields", ONLY_THE_BEST, ids=lambda fields: "-".join(map(str, fields)))
def test_who_leaves_the_best_alone_is_greedy(server: RunningServer, greedy: list[int], fields: Any) -> None:
    assert tokens(server, **fields) == greedy


@pytest.mark.parametrize("fields", [{"typical_p": 1e-6}, {"xtc_probability": 1.0, "xtc_threshold": 0.0, "top_k": 3}])
def test_who_leaves_another_one_has_no_chance_in_it(server: RunningServer, greedy: list[int], fields: Any) -> None:
    found = tokens(server, **fields)
    assert found == tokens(server, seed=2, **fields)
    assert found != greedy


def test_a_stage_that_is_not_named_is_left_out(server: RunningServer, greedy: list[int]) -> None:
    assert tokens(server, top_k=1, samplers=SAMPLERS) == greedy
    assert tokens(server, top_k=1, samplers=["temperature"]) != greedy
    # Of what comes first the others see the rest: three that XTC may not touch, or the last of the whole vocabulary.
    xtc = {"xtc_probability": 1.0, "xtc_threshold": 0.0, "top_k": 1}
    assert tokens(server, samplers=["top_k", "xtc"], **xtc) == greedy
    assert tokens(server, samplers=["xtc", "top_k"], **xtc) != greedy


@pytest.mark.parametrize("penalty", [{"presence_penalty": 100}, {"frequency_penalty": 100}, {"repeat_penalty": 100}])
def test_a_penalty_forbids_what_was_said(server: RunningServer, penalty: Any) -> None:
    again = "the cat and the dog and the cat and the dog and the cat and"
    plain = tokens(server, prompt=again, temperature=0, n_predict=30)
    assert len(set(plain)) < len(plain)
    found = tokens(server, prompt=again, temperature=0, n_predict=30, repeat_last_n=-1, **penalty)
    assert len(set(found)) == len(found)


def test_dry_ends_a_repetition(server: RunningServer) -> None:
    asked: dict[str, Any] = {"prompt": 3 * "Lily saw a big cat. " + "Lily saw a", "temperature": 0, "n_predict": 1}
    dry = {"dry_multiplier": 100.0, "dry_base": 2.0, "dry_allowed_length": 1, "dry_sequence_breakers": []}
    plain = tokens(server, **asked)
    assert tokens(server, **asked, **dry) != plain
    assert tokens(server, **asked, **{**dry, "dry_sequence_breakers": [" a"]}) == plain
    assert tokens(server, **asked, **{**dry, "dry_penalty_last_n": 3}) == plain
    assert tokens(server, **asked, **{**dry, "dry_multiplier": 0.0}) == plain


def test_a_bias_bans_and_forces(server: RunningServer, greedy: list[int]) -> None:
    assert tokens(server, temperature=0, logit_bias=[[greedy[0], False]])[0] != greedy[0]
    forced = greedy[0] + 1
    assert tokens(server, temperature=0, logit_bias=[[forced, 1000.0]], n_predict=3) == [forced] * 3
