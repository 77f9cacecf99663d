"""Traces: two formats are read and their defects named; generated loads are what they say."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from plait.control.steptime import StepTime
from plait.errors import OptionError
from plait.sim.load import KINDS, make_trace, quiet_to_peak
from plait.sim.trace import ANSWER, TraceRequest, answer_tokens, fitted, read_burstgpt, read_mooncake, read_trace

SAMPLES = Path(__file__).parents[2] / "benchmarks" / "traces"
MACHINE = StepTime(0.00035, 0.0001, 0.00008, 2e-8)
LINE = '{"timestamp": 1500, "input_length": 700, "output_length": 9, "hash_ids": [4, 8]}'


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_mooncake_line(tmp_path: Path) -> None:
    (request,) = read_mooncake(write(tmp_path / "t.jsonl", LINE + "\n\n"))
    assert request == TraceRequest(1.5, "", ((4, 512), (8, 188)), 9)
    assert request.tokens() == (4,) * 512 + (8,) * 188


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[1]",
        LINE.replace('"input_length": 700', '"input_length": 1100'),
        LINE.replace("700", "-7"),
        LINE.replace("[4, 8]", "7"),
        LINE.replace("9", '"many"'),
    ],
)
def test_a_damaged_mooncake_line_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(OptionError, match="line 2 is not a request of a Mooncake trace"):
        list(read_mooncake(write(tmp_path / "t.jsonl", f"{LINE}\n{line}\n")))


HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def test_burstgpt_without_failures(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", HEADER + "5.5,ChatGPT,472,18,490,Conversation log\n9,GPT-4,10,0,10,API log\n")
    (request,) = read_burstgpt(file)
    assert request == TraceRequest(5.5, "ChatGPT, Conversation log", ((2, 472),), 18)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "5,ChatGPT,many,18,490,API log\n", "line 2 is not a request of a BurstGPT trace"),
        (HEADER + "5,ChatGPT\n", "line 2 is not a request of a BurstGPT trace"),
        ("Timestamp,Model\n", "has no column Log Type, Request tokens, Response tokens"),
        ("", "has no column"),
    ],
)
def test_a_damaged_burstgpt_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        list(read_burstgpt(write(tmp_path / "t.csv", text)))


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"t.txt is no trace"):
        read_trace(tmp_path / "t.txt")


def test_the_samples_are_read() -> None:
    mooncake = list(read_trace(SAMPLES / "sample-mooncake.jsonl"))
    burstgpt = list(read_trace(SAMPLES / "sample-burstgpt.csv"))
    assert len(mooncake) == 200
    assert len(burstgpt) == 195  # five failures are left out
    blocks = [name for request in mooncake for name, _ in request.prompt]
    assert len(set(blocks)) < len(blocks)  # prefixes are shared


def test_what_does_not_fit_is_left_out_and_time_is_scaled() -> None:
    requests = [TraceRequest(float(at), "", ((at, 10 * at),), 5) for at in range(4)]
    kept = list(fitted(requests, context=25, speed=2.0))
    assert [(r.at_s, r.prompt_tokens) for r in kept] == [(0.5, 10), (1.0, 20)]
    assert len(list(fitted(requests, context=100, most=2))) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bursty", [False, True])
def test_a_load_is_deterministic_ordered_and_shared(kind: str, bursty: bool) -> None:
    load = quiet_to_peak(kind, 3, phase_s=4.0, bursty=bursty)
    trace = list(make_trace(load, MACHINE))
    assert trace == list(make_trace(load, MACHINE))
    assert trace != list(make_trace(quiet_to_peak(kind, 4, phase_s=4.0, bursty=bursty), MACHINE))
    times = [request.at_s for request in trace]
    assert times == sorted(times)
    assert {request.tenant for request in trace} == {tenant.name for tenant in KINDS[kind]}
    assert all(count > 0 for request in trace for _, count in request.prompt)
    for tenant in KINDS[kind]:
        heads = {request.prompt[0] for request in trace if request.tenant == tenant.name}
        assert heads in ({(name, tenant.system_tokens)} for name, _ in heads)


def test_a_turn_begins_with_the_turn_before_it() -> None:
    trace = list(make_trace(quiet_to_peak("chat", 1, phase_s=4.0), MACHINE))
    later = [request for request in trace if any(name == ANSWER for name, _ in request.prompt)]
    assert later
    by_prompt = {request.prompt: request for request in trace}
    for request in later[:20]:
        before = by_prompt[request.prompt[:-2]]
        assert request.prompt[-2] == (ANSWER, before.output_tokens)
        assert before.at_s < request.at_s
        answer = answer_tokens(before.prompt_tokens, before.output_tokens)
        assert request.tokens()[: before.prompt_tokens + before.output_tokens] == before.tokens() + answer


def test_the_load_is_what_was_asked_for() -> None:
    """Over long flat phases of share 0.5 the requests cost half of the machine's time, within the spread of chance."""
    load = quiet_to_peak("chat", 0)
    flat = type(load)(0, load.tenants, ((400.0, 0.5),))
    trace = [r for r in make_trace(flat, MACHINE) if r.at_s < 400]
    row = MACHINE.decode_row + MACHINE.step / 32
    spent = 0.0
    for request in trace:
        new = request.prompt[-1][1]
        keys = new * request.prompt_tokens + request.output_tokens * request.prompt_tokens
        spent += MACHINE.prompt_token * new + row * request.output_tokens + MACHINE.key_read * keys
    assert 0.4 < spent / 400 < 0.6


def test_bursts_come_in_bursts() -> None:
    def spread(bursty: bool) -> float:
        """Variance over mean of the arrivals in windows of a second; 1 for Poisson arrivals of single requests."""
        load = quiet_to_peak("chat", 0, bursty=bursty)
        flat = type(load)(0, load.tenants[2:], ((100.0, 0.2),))
        counts = [0] * 101
        for request in make_trace(flat, MACHINE):
            counts[min(int(request.at_s), 100)] += 1
        mean = sum(counts[:100]) / 100
        return sum((count - mean) ** 2 for count in counts[:100]) / 100 / mean

    assert spread(True) > 3 * spread(False)
    assert 0.6 < spread(False) < 1.6


def test_every_request_has_its_own_last_part() -> None:
    trace = make_trace(quiet_to_peak("mixed", 2, phase_s=3.0), MACHINE)
    last = [request.prompt[-1][0] for request in trace]
    assert len(set(last)) == len(last)
    assert all(a != b for a, b in itertools.pairwise(sorted(last)))
